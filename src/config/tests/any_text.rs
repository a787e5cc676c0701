//! Any text at all: read, or refused with places that exist. Never a panic.

use super::*;
use proptest::prelude::*;

/// What a report promises: each place is a place of its file, and no place is lost.
fn places_exist(report: &Report, files: &Memory) {
    assert!(!report.problems().is_empty());
    for problem in report.problems() {
        let text = String::from_utf8_lossy(&files.0[Path::new(problem.file())]).into_owned();
        let line = text.split('\n').nth(problem.line() - 1);
        let columns = line.map(|line| line.chars().count() + 1);
        assert!(columns.is_some_and(|columns| problem.column() <= columns), "{}", problem.one_line());
    }
    let shown = report.to_string();
    let first = report.problems().iter().take(50);
    for problem in first {
        assert!(shown.contains(&problem.one_line()));
        let corner = format!("─[{}:{}:{}]", problem.file(), problem.line(), problem.column());
        assert!(shown.contains(&corner), "{corner}\n{shown}");
    }
}

fn holds_or_has_places(files: &Memory) {
    if let Err(report) = load_from(Path::new(FILE), files) {
        places_exist(&report, files);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_read_or_refused_with_places(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        holds_or_has_places(&Memory::default().with(FILE, bytes));
    }

    #[test]
    fn any_text_is_read_or_refused_with_places(pieces in proptest::collection::vec(piece(), 0..60)) {
        holds_or_has_places(&Memory::default().with(FILE, pieces.concat()));
    }

    #[test]
    fn a_changed_good_configuration_holds_or_is_refused_with_places(
        file in 0_usize..3,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..12, piece()), 1..6),
    ) {
        let mut files = good_files();
        let path = files.0.keys().nth(file).unwrap().clone();
        let mut text: Vec<char> = String::from_utf8(files.0[&path].clone()).unwrap().chars().collect();
        for (at, removed, inserted) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, inserted.chars());
        }
        files.0.insert(path, text.into_iter().collect::<String>().into_bytes());
        holds_or_has_places(&files);
    }
}

/// A piece of something like TOML.
fn piece() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "\n",
        "\r\n",
        "\r",
        " = ",
        "=",
        "\"",
        "\"\"\"",
        "'''",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        ",",
        "#",
        "\t",
        "-1",
        "1e9",
        "inf",
        "nan",
        "0x",
        "1979-05-27",
        "true",
        "\u{feff}",
        "ü",
        "\u{1b}[2J",
        "[gateway]\n",
        "[[chair]]\n",
        "[[upstream]]\n",
        "[keys]\n",
        "name = \"a\"\n",
        "root = { file = \"x\" }\n",
        "password = \"x\"\n",
        "map = \"nikkiso_dbb27c.toml\"\n",
        "every = \"99999999999999999999 days\"\n",
        "port = \"\"\n",
    ];
    prop_oneof![prop::sample::select(PIECES).prop_map(str::to_owned), "\\PC{0,4}"]
}

fn good_files() -> Memory {
    let mut files = Memory::default();
    for name in ["gateway.toml", "devices/nikkiso_dbb27c.toml", "devices/toray_tr8000.toml"] {
        let text = std::fs::read_to_string(Path::new("fixtures/config/good").join(name)).unwrap();
        files = files.with(&format!("/etc/chairside/{name}"), text);
    }
    files
}

#[test]
fn what_is_nested_without_end_is_refused_and_does_not_overflow_the_stack() {
    let deep = [
        format!("a = {}", "[".repeat(400_000)),
        format!("a = {}", "{a=".repeat(150_000)),
        format!("{}a = 1", "a.".repeat(250_000)),
        format!("[{}a]", "a.".repeat(250_000)),
        "]\n".repeat(40_000),
        "[[chair]]\n".repeat(10_000),
        "=\n".repeat(40_000),
        format!("a = \"{}\"", "\\q".repeat(40_000)),
        (0..10_000).map(|n| format!("k{n}=1\n")).collect(),
    ];
    for text in deep {
        let files = Memory::default().with(FILE, text);
        let report = load_from(Path::new(FILE), &files).unwrap_err();
        assert!(!report.problems().is_empty() && !report.to_string().is_empty());
    }
}

#[test]
fn a_report_moves_no_cursor() {
    let text = "\"a\\u001b[2Jb\\u000ac\" = 1\n[[chair]]\nmap = \"\\u001b[2J.toml\"\nx = \u{1b}[2J\n";
    let report = load_from(Path::new(FILE), &Memory::default().with(FILE, text)).unwrap_err();
    assert_eq!(report.problems().len(), 3);
    assert!(!report.to_string().contains(|c: char| c.is_control() && c != '\n'), "{report}");
}
