//! Blots secrets out of a configuration's text, so that a report about it can be shown, logged and pasted.

/// Words in a key that say its value is a secret.
const SECRET_WORDS: &[&str] =
    &["password", "passwd", "passphrase", "secret", "token", "private_key", "api_key"];

/// Whether a key names a secret, which never belongs into a configuration file.
pub(super) fn names_a_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "_");
    SECRET_WORDS.iter().any(|word| key.contains(word))
}

/// The text with everything blotted out that a report must not repeat: values of keys that name a secret, PEM
/// blocks, passwords in URLs, control characters. Works on lines, so that it also holds where the TOML is broken.
pub(super) fn blotted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // What ends the secret that runs over several lines, while one does.
    let mut until: Option<&str> = None;
    for line in text.split_inclusive('\n') {
        let (body, end) = match line.strip_suffix('\n') {
            Some(body) => (body, "\n"),
            None => (line, ""),
        };
        let keep = match until {
            Some(_) => 0,
            None => body.find(PEM_BEGINS).or_else(|| secret_value(body)).unwrap_or(body.len()),
        };
        let (kept, hidden) = body.split_at(keep);
        until = match until {
            Some(ending) if hidden.contains(ending) => None,
            Some(ending) => Some(ending),
            None => opened(hidden),
        };
        push_without_url_passwords(&mut out, kept);
        out.extend(hidden.chars().map(star));
        out.push_str(end);
    }
    out
}

const PEM_BEGINS: &str = "-----BEGIN";
const PEM_ENDS: &str = "-----END";

/// What ends the secret that begins here, when it runs on to the next line.
fn opened(hidden: &str) -> Option<&'static str> {
    if hidden.contains(PEM_BEGINS) {
        return (!hidden.contains(PEM_ENDS)).then_some(PEM_ENDS);
    }
    let quotes = ["\"\"\"", "\'\'\'"];
    quotes.into_iter().find(|quotes| hidden.matches(quotes).count() == 1)
}

/// A text from the configuration as it may stand in a sentence: on one line, and not without end.
pub(super) fn sentence(text: &str) -> String {
    const LONGEST: usize = 400;
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

/// A star of as many bytes as the character it hides, so that bytes and columns behind it stay where they are.
const fn star(hidden: char) -> char {
    match hidden.len_utf8() {
        1 => '*',
        2 => '¤',
        3 => '※',
        _ => '𝄯',
    }
}

/// Where the value of a `key = value` line begins, when the key names a secret.
fn secret_value(line: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(equals) = line.get(from..).and_then(|rest| rest.find('=')) {
        let at = from + equals;
        let key = line.get(from..at).unwrap_or_default().rsplit(['{', ',']).next().unwrap_or_default();
        let value = line.get(at + 1..).unwrap_or_default().trim_start();
        // `key` and `root` say where a key is; a plain text there may be the key itself.
        let is_bare_key = matches!(key.trim(), "key" | "root") && value.starts_with(['"', '\'']);
        if names_a_secret(key) || is_bare_key {
            return Some(at + 1);
        }
        from = at + 1;
    }
    None
}

fn push_without_url_passwords(out: &mut String, mut text: &str) {
    while let Some(scheme) = text.find("://") {
        let (head, rest) = text.split_at(scheme + 3);
        push_printable(out, head);
        let host = rest.find(['/', '"', '\'', ' ', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(host);
        let shown = match authority.rfind('@') {
            Some(at) => {
                out.extend(authority.get(..at).unwrap_or_default().chars().map(star));
                authority.get(at..).unwrap_or_default()
            }
            None => authority,
        };
        push_printable(out, shown);
        text = rest;
    }
    push_printable(out, text);
}

/// Control characters could move a terminal's cursor; all below U+0080 have one byte, so that places stay true.
fn push_printable(out: &mut String, text: &str) {
    out.extend(text.chars().map(|c| match c {
        '\t' => '\t',
        c if c.is_ascii_control() => ' ',
        c => c,
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blotting_moves_neither_bytes_nor_columns() {
        let text = "password = 'Zürich ※ 𝄞'\nurl = \"x://ü𝄞@h\"\n";
        let shown = blotted(text);
        let places = |text: &str| text.char_indices().map(|(at, _)| at).collect::<Vec<_>>();
        assert_eq!(places(&shown), places(text));
    }

    #[test]
    fn a_report_never_repeats_a_secret() {
        let text = "password = \"hunter2\"\npasswd = '''\nhunter2\n'''\nkey = { token = 'hunter2' }\nurl = \"https://me:hunter2@host/x\"\n\
                    k = \"\"\"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\"\"\"\nname = \"kept\"\n";
        let shown = blotted(text);
        assert_eq!(shown.len(), text.len());
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("kept"));
    }
}
