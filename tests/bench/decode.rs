//! Decoding K-poll frames, and reading every value of them, against a loop that only finds frames and sums them.
//!
//! The loop is the floor of any reader: it knows no item table and reads no value. Its sum runs in vector registers at
//! some six bytes a nanosecond, so reading 35 exact decimals cannot come near it; the two lines show both.
#![expect(clippy::disallowed_methods, reason = "a bench measures time")]
#![expect(clippy::expect_used, clippy::panic, reason = "a bench may stop where its input is wrong")]

use chairside_drivers::kit::driver::{Codec, Step};
use chairside_drivers::kpoll::codec::{Frame, Kpoll};
use chairside_drivers::kpoll::table::{NIKKISO_DBB27C, TORAY_TR321, TORAY_TR8000, Table};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Public frames, one per model; the same bytes stand in the drivers' fixtures.
const FRAMES: [(&str, &Table, &[u8]); 3] = [
    (
        "nikkiso_dbb27c",
        &NIKKISO_DBB27C,
        b"K2143A02.50B00.68C00.80D00250E002.0F036.5G014.4H 0170I 0153J 0061K00054L00500a0b0c0d0e0f0g0h0M1N0\
          O00.00P00.00Q00.00R000.0S000/00T0000/U0000/V0000/i03b\r\n",
    ),
    (
        "toray_tr8000",
        &TORAY_TR8000,
        b"K1261A03.80B03.08C00.95D00320E002.0F037.0G014.1H00129I00084J00045K00194a0b0c0d0e0f0g0h0L00505\
          M00004N00093O00064P00080Q00250R00100S00200T00000U00661V00187W00067X00065Y00171Z-0029i00000\
          j0k0l2m1n        o00012p0q00073r-0047s00153t-0047u000.0v00.00w00.00x0y0z0!0#036.7$0a6\r\n",
    ),
    (
        "toray_tr321",
        &TORAY_TR321,
        b"K1074A01.90B01.35C00.48D00260E02.00F36.80G13.90H00167I00148K00167a0b0c0d0f0g0h0a2\r\n",
    ),
];

const ROUNDS: usize = 61;
const FRAMES_PER_ROUND: usize = 2_000;

fn main() {
    println!("K-poll, as a share of the speed of only finding and summing frames (target 0.50)");
    for (name, table, frame) in FRAMES {
        let codec = Kpoll::new(table);
        let stream = frame.repeat(FRAMES_PER_ROUND);
        report(name, "check and walk", &stream, |stream| decode(codec, stream, |_| {}));
        report(name, "and read every value", &stream, |stream| {
            decode(codec, stream, |frame| {
                for sample in frame.samples() {
                    black_box(sample.expect("a public frame reads"));
                }
            })
        });
    }
}

/// The median of many rounds, each side measured right after the other.
fn report(name: &str, what: &str, stream: &[u8], work: impl Fn(&[u8]) -> usize) {
    let mut rounds: Vec<(Duration, Duration)> = (0..ROUNDS)
        .map(|_| (timed(|| find_and_sum(black_box(stream))), timed(|| work(black_box(stream)))))
        .collect();
    let ratio = |(plain, whole): &(Duration, Duration)| plain.as_secs_f64() / whole.as_secs_f64();
    rounds.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let median = rounds[ROUNDS / 2];
    let per_frame = |time: Duration| time.as_nanos() / FRAMES_PER_ROUND as u128;
    println!(
        "  {name:15} {what:21} {:.2}   ({} ns a frame against {} ns)",
        ratio(&median),
        per_frame(median.1),
        per_frame(median.0)
    );
}

fn timed(work: impl Fn() -> usize) -> Duration {
    let start = Instant::now();
    let frames = black_box(work());
    let time = start.elapsed();
    assert_eq!(frames, FRAMES_PER_ROUND, "a frame was missed");
    time
}

/// The least that any K-poll reader does: find a frame by its head, sum it, compare.
fn find_and_sum(stream: &[u8]) -> usize {
    let mut frames = 0;
    let mut rest = stream;
    while let Some(start) = rest.iter().position(|byte| *byte == b'K') {
        let frame = &rest[start..];
        let length = frame[2..5].iter().fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
        let (summed, behind) = frame.split_at(5 + length);
        let sum = summed.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        let check = std::str::from_utf8(&behind[..2]).expect("check digits are ASCII");
        if u8::from_str_radix(check, 16) == Ok(sum) {
            frames += 1;
        }
        rest = &behind[2..];
    }
    frames
}

/// What the driver does: find, check and walk each frame, then whatever `read` does with it.
fn decode(codec: Kpoll, stream: &[u8], read: impl Fn(&Frame<'_>)) -> usize {
    let mut frames = 0;
    let mut rest = stream;
    loop {
        match codec.decode(rest) {
            Step::Frame { frame, used } => {
                read(black_box(&frame));
                frames += 1;
                rest = &rest[used.get()..];
            }
            Step::Junk { why, .. } => panic!("junk in a stream of good frames: {}", why.word()),
            Step::NeedMore => return frames,
        }
    }
}
