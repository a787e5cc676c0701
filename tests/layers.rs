//! Reads the sources and holds them against what is said of them: the table of who may use what, and the tests that carry the
//! promises. A folder's place in the house is a promise; this is the test that carries it.
#![expect(clippy::unwrap_used, reason = "a test may say what must hold in the shortest way")]

use std::fs;
use std::path::{Path, PathBuf};

/// What the files under a path may not name, and why.
struct Rule {
    path: &'static str,
    except: &'static [&'static str],
    forbidden: &'static [&'static str],
    why: &'static str,
}

const ENVIRONMENT: &[&str] = &[
    "tokio::",
    "std::fs",
    "std::net",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::env",
    "std::thread",
];

const RULES: &[Rule] = &[
    Rule {
        path: "drivers",
        except: &["drivers/tests"],
        forbidden: &["std::", "tokio", "tracing::", "log::", "serde"],
        why: "drivers do no IO: bytes and time come in, values come out",
    },
    Rule { path: "src/model", except: &[], forbidden: ENVIRONMENT, why: "the vocabulary is pure" },
    Rule { path: "src/normalise", except: &[], forbidden: ENVIRONMENT, why: "normalising is pure" },
    Rule {
        path: "src/upstream/fhir",
        // The link talks to the server.
        except: &["src/upstream/fhir/link"],
        forbidden: ENVIRONMENT,
        why: "an encoder is a pure function of the record",
    },
    Rule {
        path: "src/privacy",
        except: &["src/privacy/keyring", "src/privacy/key_source"],
        forbidden: ENVIRONMENT,
        why: "the border does no IO but to load and keep its keys",
    },
    Rule {
        path: "src/spool",
        except: &[],
        forbidden: &["normalise::Capture", "Capture", "driver::Sample"],
        why: "nothing identified goes beyond the border",
    },
    Rule {
        path: "src/upstream",
        except: &[],
        forbidden: &["normalise::Capture", "Capture,", "driver::Sample"],
        why: "nothing identified goes beyond the border",
    },
    Rule {
        path: "src/status",
        except: &[],
        forbidden: &["normalise::Capture", "Sensitive"],
        why: "nothing identified goes beyond the border",
    },
    Rule {
        path: "src/audit",
        except: &[],
        forbidden: &["normalise::Capture", "Sensitive"],
        why: "nothing identified goes beyond the border",
    },
    Rule {
        path: "src",
        except: &["src/privacy"],
        forbidden: &[".expose()"],
        why: "identity is read only inside the privacy border",
    },
    Rule {
        path: "src",
        except: &["src/clock"],
        forbidden: &["SystemTime::now", "Instant::now", "Timestamp::now", "Zoned::now"],
        why: "time is an argument; only the clock asks the operating system",
    },
    Rule {
        path: "src",
        except: &["src/line", "src/sim"],
        forbidden: &["tokio_serial", "serialport::"],
        why: "only the line opens a tty",
    },
    Rule {
        path: "src",
        // Sockets and made-up wards are nothing that has to outlive a power cut; the list of a volume's treatments is a cache; the reserve is
        // space and holds nothing;
        // sled's folders are copied to be looked at.
        except: &[
            "src/disk",
            "src/cli",
            "src/control",
            "src/line",
            "src/sim",
            "src/spool/reserve",
            "src/spool/shelf",
            "src/spool/verify",
            "src/upstream/golden",
        ],
        forbidden: &["File::create", "fs::write", "fs::hard_link", "OpenOptions", ".set_len("],
        why: "what we write goes through the disk, so that a test can let it fail",
    },
    Rule {
        path: "src/poll",
        except: &[],
        forbidden: &["chairside_drivers::kpoll"],
        why: "the poll loop knows no protocol",
    },
];

#[test]
fn no_folder_uses_what_it_may_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    for rule in RULES {
        for file in sources(root, rule) {
            let text = fs::read_to_string(&file).unwrap();
            for (number, line) in production_lines(&text) {
                if let Some(word) = rule.forbidden.iter().find(|word| line.contains(**word)) {
                    let place = file.strip_prefix(root).unwrap().display();
                    broken.push(format!("{place}:{number}: `{word}`: {}", rule.why));
                }
            }
        }
    }
    assert!(broken.is_empty(), "layers broken:\n{}", broken.join("\n"));
}

#[test]
fn every_rule_guards_something_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for rule in RULES {
        assert!(!sources(root, rule).is_empty(), "no source under {}", rule.path);
    }
}

#[test]
fn every_source_file_opens_with_what_lives_in_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let silent: Vec<PathBuf> = ["src", "drivers", "tests"]
        .iter()
        .flat_map(|folder| rust_files(&root.join(folder)))
        .filter(|file| !fs::read_to_string(file).unwrap().starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "these do not say what lives in them: {silent:?}");
}

#[test]
fn every_promise_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = Vec::new();
    let mut checked = 0;
    for page in ["README.md", "src/spool/README.md"] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
        for (promise, tests) in rows.filter_map(|row| row.rsplit_once(" | ")) {
            // What a file is called in front of its tests: as it is, or as the folder of that page knows it.
            let mut sources = String::new();
            for word in tests.split('`').skip(1).step_by(2) {
                let found = [
                    root.join(page).parent().unwrap().join(word),
                    root.join(word),
                    root.join("src").join(word),
                ];
                let is_file = word.contains('/') || word.ends_with(".rs");
                if is_file && let Some(path) = found.iter().find(|path| path.exists()) {
                    let beside = path.with_extension("");
                    let files = [path, &beside]
                        .into_iter()
                        .filter(|path| path.is_dir())
                        .flat_map(|it| rust_files(it));
                    let files = files.chain(path.is_file().then(|| path.clone()));
                    sources = files.map(|file| fs::read_to_string(file).unwrap()).collect();
                } else if is_file {
                    missing.push(format!("{page}: no file {word}, for: {promise}"));
                } else if !sources.is_empty() && word.matches('_').count() > 1 && word == word.to_lowercase()
                {
                    checked += 1;
                    if !sources.contains(&format!("fn {}", word.trim_end_matches('.'))) {
                        missing.push(format!("{page}: no test {word} there, for: {promise}"));
                    }
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(checked > 50, "only {checked} names of tests were found");
}

/// The files of a rule: everything below a folder of that path, or files whose path begins with it.
fn sources(root: &Path, rule: &Rule) -> Vec<PathBuf> {
    let belongs = |file: &PathBuf| {
        let path = file.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let under = |prefix: &str| {
            path.strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with('/') || rest.starts_with('.') || rest.starts_with('_'))
        };
        under(rule.path) && !rule.except.iter().any(|except| under(except))
    };
    let top = rule.path.split('/').next().unwrap();
    // Whole files of tests may do what a test needs; `#[cfg(test)]` stands where they are declared.
    let is_test = |file: &PathBuf| {
        let mut parts = file.strip_prefix(root).unwrap().components();
        parts.any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "testing")))
            || file
                .file_stem()
                .is_some_and(|stem| stem == "testing" || stem.to_string_lossy().ends_with("tests"))
    };
    rust_files(&root.join(top)).into_iter().filter(|file| belongs(file) && !is_test(file)).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Lines of code, without comments and without the tests at the bottom of the file.
fn production_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .map(|(index, line)| (index + 1, line.trim_start()))
        .filter(|(_, line)| !line.starts_with("//"))
}
