//! The canary: a record number and a name that nobody could mistake, searched for everywhere a byte can end up.

use crate::gateway::{Home, Wishes};
use crate::machine::{Machine, Screen};
use crate::pki::Pki;
use crate::receiver::Receiver;
use std::path::Path;

const RECORD_NUMBER: &str = "QX7-CANARY-90817263";
const WRONG_NUMBER: &str = "QX7-CANARY-55443322";
/// What the machine itself says, in the eight characters it has for text.
const NAME: &str = "ZWQVKJXB";

/// A public TR-8000 frame with a name in its text field.
const TORAY: &str = "A03.80B03.08C00.95D00320E002.0F037.0G014.1H00129I00084J00045K00194a0b0c0d0e0f0g0h0L00505M00004\
                     N00093O00064P00080Q00250R00100S00200T00000U00661V00187W00067X00065Y00171Z-0029i00000j0k0l2m1\
                     nZWQVKJXBo00012p0q00073r-0047s00153t-0047u000.0v00.00w00.00x0y0z0!0#036.7$0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_number_and_a_name_are_nowhere_but_in_sealed_values() {
    let nikkiso = Machine::start(Screen::default());
    let toray = Machine::of_model(
        "toray_tr8000",
        Screen { other: Some(('1', TORAY.to_owned())), ..Screen::default() },
    );
    let pki = Pki::new();
    let receiver = Receiver::start(&pki).await;
    let home = Home::new(&Wishes {
        chairs: &[&nikkiso, &toray],
        receiver: Some((&receiver, &pki)),
        unseated: "hold",
        ..Wishes::default()
    });
    let mut outputs = Vec::new();
    let mut ask = |words: &[&str], number: &str| {
        let (_, said, why) = home.ask(words, &format!("{number}\n"));
        outputs.extend([said, why]);
    };

    let gateway = home.ready("trace");
    gateway.until("the treatment", |line| line.contains("treatment started"));
    ask(&["seat", "chair-1"], WRONG_NUMBER);
    ask(&["seat", "chair-1", "--correct"], RECORD_NUMBER);
    ask(&["seat", "chair-2"], RECORD_NUMBER);
    ask(&["seat", RECORD_NUMBER], RECORD_NUMBER);
    ask(&["status", "--json"], "");
    // What is refused is not repeated either.
    ask(&["seat", "chair-1"], &format!("{RECORD_NUMBER}{}", "9".repeat(200)));
    gateway.until("the Toray's answers", |line| line.contains(": kept ") && line.contains("chair-2"));
    receiver
        .until("readings of the patient", |resources| {
            resources.values().any(|it| it["subject"]["identifier"]["value"].is_string())
        })
        .await;
    let mut log = gateway.stop();
    let mut gateway = home.ready("trace");
    gateway.until_count("readings", 20, |line| line.contains(": kept "));
    gateway.kill();
    log.extend(gateway.log());

    let needles = [RECORD_NUMBER, WRONG_NUMBER, NAME, "CANARY"];
    for needle in needles {
        let forms = forms(needle);
        for (place, bytes) in [
            ("the log", log.join("\n").into_bytes()),
            ("what commands print", outputs.join("\n").into_bytes()),
            ("what the receiver was sent", receiver.raw()),
        ] {
            search(place, &bytes, needle, &forms);
        }
        search_folder(&home.state(), needle, &forms);
    }
}

/// The search itself must be able to find something.
#[test]
fn the_search_finds_what_is_there_in_each_form() {
    for form in forms(NAME) {
        let haystack = [b"some bytes before ", form.1.as_slice(), b" and after"].concat();
        assert!(found(&haystack, &form.1), "{}", form.0);
    }
    let text = format!("one two {NAME} three");
    for shift in 0..3 {
        let encoded = base64(&text.as_bytes()[shift..]);
        let hit = forms(NAME).iter().any(|(_, form)| found(encoded.as_bytes(), form));
        assert!(hit, "base64 shifted by {shift}");
    }
}

/// What text can look like on its way to a disk or a wire.
fn forms(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = text.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let percent: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
    let wide = |swap: bool| -> Vec<u8> {
        let units = text.encode_utf16();
        units.flat_map(|unit| if swap { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
    };
    let mut forms = vec![
        ("plain", bytes.to_vec()),
        ("lower case", text.to_lowercase().into_bytes()),
        ("hex", hex.clone().into_bytes()),
        ("upper hex", hex.to_uppercase().into_bytes()),
        ("percent", percent.to_lowercase().into_bytes()),
        ("upper percent", percent.into_bytes()),
        ("percent of what is not a letter", text.replace('-', "%2D").into_bytes()),
        ("UTF-16 LE", wide(false)),
        ("UTF-16 BE", wide(true)),
    ];
    // Base64 looks different at each of three places in a group, and its ends mix with their neighbours.
    for before in 0..3_usize {
        let encoded = base64(&[vec![0; before], bytes.to_vec()].concat());
        let from = (before * 8).div_ceil(6);
        let to = (before + bytes.len()) * 8 / 6;
        forms.push(("base64", encoded.as_bytes()[from..to].to_vec()));
        forms.push(("URL base64", encoded.replace('+', "-").replace('/', "_").as_bytes()[from..to].to_vec()));
    }
    forms
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let word =
            chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).map(move |place| char::from(LETTERS[(word >> (18 - 6 * place)) as usize & 63]))
    };
    bytes.chunks(3).flat_map(group).collect()
}

fn found(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn search(place: &str, haystack: &[u8], needle: &str, forms: &[(&'static str, Vec<u8>)]) {
    for (form, bytes) in forms {
        assert!(!found(haystack, bytes), "{needle} is in {place}, in {form}");
    }
}

fn search_folder(folder: &Path, needle: &str, forms: &[(&'static str, Vec<u8>)]) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        search("a file's name", path.to_string_lossy().as_bytes(), needle, forms);
        if path.is_dir() {
            search_folder(&path, needle, forms);
        } else if path.is_file() {
            search(&path.display().to_string(), &std::fs::read(&path).unwrap(), needle, forms);
        }
    }
}
