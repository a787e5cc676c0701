//! Every transcript under every driver's folder: recorded bytes mean what stands beside them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what must hold in the shortest way"
)]

use chairside_drivers::kit::driver::{Driver, FrameFault, Outcome, Output, Sample, Trouble};
use chairside_drivers::kit::time::{Slot, Tick};
use chairside_drivers::kit::transcript::{Event, Expected, Transcript};
use chairside_drivers::{MODELS, Options, find};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// How the machine's bytes are cut on their way.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// All that follow one another come at once.
    Together,
    /// As the transcript's lines stand.
    Lines,
    /// One by one.
    Bytes,
}

#[test]
fn every_transcript_means_what_stands_beside_it_however_it_is_cut() {
    let transcripts = transcripts();
    for (path, transcript) in &transcripts {
        for cut in [Cut::Together, Cut::Lines, Cut::Bytes] {
            println!("{} {cut:?}", path.display());
            play(transcript, cut);
        }
    }
    println!(
        "{} transcripts, {} lines",
        transcripts.len(),
        transcripts.iter().map(|(_, t)| t.steps.len()).sum::<usize>()
    );
}

#[test]
fn every_model_has_a_transcript_that_is_answered() {
    let answered: BTreeSet<String> = transcripts()
        .iter()
        .filter(|(_, transcript)| {
            transcript.steps.iter().any(|step| step.event == Event::Ends(Outcome::Answered))
        })
        .map(|(_, transcript)| transcript.model.to_string())
        .collect();
    let models: BTreeSet<String> = MODELS.iter().map(|entry| entry.id.to_string()).collect();
    assert_eq!(answered, models);
}

/// The bytes of the public frames as their source shows them, so that nobody mends a fixture by accident.
#[test]
fn the_public_frames_stand_byte_for_byte_in_their_transcripts() {
    for (file, frame) in [
        (
            "dbb27c_public.wire",
            "K2143A02.50B00.68C00.80D00250E002.0F036.5G014.4H 0170I 0153J 0061K00054L00500a0b0c0d0e0f0g0h0M1N0O00.00\
             P00.00Q00.00R000.0S000/00T0000/U0000/V0000/i03b\r\n",
        ),
        (
            "tr8000_public_first.wire",
            "K1261A03.80B03.08C00.95D00320E002.0F037.0G014.1H00129I00084J00045K00194a0b0c0d0e0f0g0h0L00505M00004\
             N00093O00064P00080Q00250R00100S00200T00000U00661V00187W00067X00065Y00171Z-0029i00000j0k0l2m1n        \
             o00012p0q00073r-0047s00153t-0047u000.0v00.00w00.00x0y0z0!0#036.7$0a6\r\n",
        ),
        (
            "tr8000_public_second.wire",
            "K1261A03.80B03.75C00.95D00320E000.0F037.1G014.1H00137I00083J00054K00237a0b0c0d0e0f0g0h0L00508M00004\
             N00093O00064P00080Q00250R00100S00200T00000U00806V00187W00067X00119Y00195Z-0005i00000j0k0l2m1n        \
             o00012p0q00073r-0047s00153t-0047u000.0v00.00w00.00x0y0z0!0#036.7$0a9\r\n",
        ),
        (
            "tr8000_public_third.wire",
            "0#036.0$088\r\nK1261A04.00B03.90C00.41D00240E000.0F036.3G013.8H00081I00019J00062K00225a0b0c0d0e0f0g0h0\
             L00531M00006N00097O00072P00095Q00250R00080S00200T00000U00715V00156W00036X00068Y00116Z-0084i00000j0k0l2m1\
             n        o00000p0q00070r-0050s00170t-0030u000.0v00.00w00.00x0y0z0!0#036.0$083\r\n",
        ),
        (
            "tr321_public.wire",
            "K1074A01.90B01.35C00.48D00260E02.00F36.80G13.90H00167I00148K00167a0b0c0d0f0g0h0a2\r\n",
        ),
    ] {
        let transcript = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("kpoll/fixtures").join(file));
        let sent = transcript.steps.iter().flat_map(|step| match &step.event {
            Event::Sends(bytes) => bytes.clone(),
            _ => Vec::new(),
        });
        assert_eq!(String::from_utf8(sent.collect()).unwrap(), frame, "{file}");
    }
}

/// The gateway's side of one transcript, and what the driver has said since the last end of a poll.
struct Player {
    driver: Box<dyn Driver>,
    now: Tick,
    deadline: Option<Tick>,
    sent: Vec<u8>,
    samples: Vec<Sample>,
    ends: Vec<Outcome>,
    junk: BTreeSet<FrameFault>,
    unexpected: usize,
}

fn play(transcript: &Transcript, cut: Cut) {
    let entry = find(transcript.model.as_str()).expect("a model of the list");
    let model = (entry.build)(&Options::new()).unwrap();
    let mut player = Player {
        driver: model.driver(),
        now: Tick::ZERO,
        deadline: None,
        sent: Vec::new(),
        samples: Vec::new(),
        ends: Vec::new(),
        junk: BTreeSet::new(),
        unexpected: 0,
    };
    player.driver.handle_open(player.now);
    player.drain();
    let mut on_the_way: Vec<u8> = Vec::new();
    let mut gives: Vec<(&str, &Expected)> = Vec::new();
    let mut drops = BTreeSet::new();
    let mut unexpected = 0;
    for (slot, step) in (0..).zip(&transcript.steps) {
        let line = step.line;
        if !matches!(step.event, Event::Sends(_) | Event::Gives(..)) {
            player.hear(&std::mem::take(&mut on_the_way));
        }
        match &step.event {
            Event::Asks(bytes) => {
                player.driver.handle_poll_due(player.now, Slot(slot));
                player.drain();
                assert_eq!(std::mem::take(&mut player.sent), *bytes, "line {line}: the request");
            }
            Event::Sends(bytes) => match cut {
                Cut::Together => on_the_way.extend(bytes),
                Cut::Lines => player.hear(bytes),
                Cut::Bytes => bytes.iter().for_each(|byte| player.hear(&[*byte])),
            },
            Event::Gives(channel, expected) => gives.push((channel.as_str(), expected)),
            Event::Waits(time) => player.wait_until(player.now.after(*time)),
            Event::Drops(why) => drops.extend([*why]),
            Event::Unexpected => unexpected += 1,
            Event::Ends(outcome) => {
                assert_eq!(player.ends, [*outcome], "line {line}: how the poll ended");
                assert_eq!(player.junk, drops, "line {line}: why bytes were dropped");
                assert_eq!(player.unexpected, unexpected, "line {line}: answers nobody asked for");
                let given: Vec<&str> = player.samples.iter().map(|sample| sample.channel.as_str()).collect();
                let expected: Vec<&str> = gives.iter().map(|(channel, _)| *channel).collect();
                assert_eq!(given, expected, "line {line}: the channels of the poll");
                for (sample, (channel, expected)) in player.samples.iter().zip(&gives) {
                    assert!(
                        expected.matches(&sample.reading),
                        "line {line}: {channel}: {:?}",
                        sample.reading
                    );
                }
                player.samples.clear();
                player.ends.clear();
                player.junk.clear();
                player.unexpected = 0;
                gives.clear();
                drops.clear();
                unexpected = 0;
            }
        }
    }
    assert!(
        player.ends.is_empty() && player.samples.is_empty() && gives.is_empty(),
        "the transcript ends with `=`"
    );
}

impl Player {
    fn hear(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.driver.handle_bytes(self.now, bytes);
            self.drain();
        }
    }

    fn wait_until(&mut self, end: Tick) {
        while let Some(deadline) = self.deadline.filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.driver.handle_tick(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        loop {
            match self.driver.poll() {
                Output::Sample(sample) => self.samples.push(sample),
                Output::EndOfPoll(_, outcome) => self.ends.push(outcome),
                Output::Send(request) => self.sent.extend(request.bytes()),
                Output::Trouble(Trouble::Junk { why, .. }) => self.junk.extend([why]),
                Output::Trouble(Trouble::Unexpected) => self.unexpected += 1,
                Output::Trouble(Trouble::Overrun) => panic!("no transcript asks twice at a time"),
                Output::Wait(deadline) => {
                    self.deadline = deadline;
                    return;
                }
            }
        }
    }
}

fn transcripts() -> Vec<(PathBuf, Transcript)> {
    let folders =
        fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap().map(|entry| entry.unwrap().path().join("fixtures"));
    let mut paths: Vec<PathBuf> = folders
        .filter(|folder| folder.is_dir())
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wire"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no transcript was found");
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

fn read(path: &Path) -> Transcript {
    let text = fs::read_to_string(path).unwrap();
    Transcript::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
