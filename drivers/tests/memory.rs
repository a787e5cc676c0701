//! A driver holds a bounded amount, however long a line babbles. Alone in its process, because it measures that.
#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "a test says what must hold in the shortest way")]

use chairside_drivers::kit::driver::Output;
use chairside_drivers::kit::random::Random;
use chairside_drivers::kit::time::{Slot, Tick};
use chairside_drivers::{MODELS, Options};
use std::time::Duration;

/// Resident kilobytes of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("and this line");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("in kilobytes")
}

#[test]
fn twelve_megabytes_of_noise_do_not_grow_a_driver() {
    let alphabet = b"KK121261143074/ \r\nabcH.-0123456789";
    for entry in MODELS {
        let model = (entry.build)(&Options::new()).expect("no option is needed");
        let mut driver = model.driver();
        let mut random = Random::new(12);
        let mut now = Tick::ZERO;
        driver.handle_open(now);
        let mut settled = 0;
        for round in 0..3_000_u64 {
            let noise: Vec<u8> = (0..4096)
                .map(|_| {
                    alphabet[usize::try_from(random.below(34)).expect("small")]
                        ^ u8::from(random.happens(9_000))
                })
                .collect();
            now = now.after(Duration::from_millis(700));
            if round % 10 == 0 {
                driver.handle_poll_due(now, Slot(round));
            }
            driver.handle_bytes(now, &noise);
            while !matches!(driver.poll(), Output::Wait(_)) {}
            if round == 500 {
                settled = resident();
            }
        }
        let grown = resident().saturating_sub(settled);
        println!("{}: {grown} KiB more after 12 MB of noise", entry.id);
        assert!(grown < 2_048, "{}: {grown} KiB", entry.id);
    }
}
