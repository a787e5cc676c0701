//! `chairside drivers`: the machines this program can read, and every byte it can ever send to one.

use super::Exit;
use chairside_drivers::kit::driver::{
    Channel, ChannelKind, Direction, Effect, LineSettings, Model, Parity, RequestSpec,
};
use chairside_drivers::{Entry, MODELS, Options};
use serde_json::{Value, json};
use std::io::Write;

/// Arguments of `drivers`.
#[derive(Debug, clap::Args)]
pub(super) struct DriversArgs {
    #[command(subcommand)]
    command: DriversCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DriversCommand {
    /// Every model with its evidence.
    List {
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// What one model says, and how.
    Show {
        /// The model, `family/model`.
        model: String,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Every byte this driver can ever send to a machine.
    Proof {
        /// The model, `family/model`.
        model: String,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What the evidence labels do not say.
const UNTESTED: &str = "Evidence says what our knowledge of the protocol rests on. It never says that we tested a machine:\n\
     compare every value with the machine's screen, for each software version, before you use it.\n";

pub(super) fn run(args: DriversArgs) -> Exit {
    let answer = match &args.command {
        DriversCommand::List { json: false } => Ok(list()),
        DriversCommand::List { json: true } => {
            Ok(pretty(&json!(MODELS.iter().map(entry_json).collect::<Vec<_>>())))
        }
        DriversCommand::Show { model, json } => built(model).map(|(entry, model)| match json {
            false => show(entry, &*model),
            true => pretty(&show_json(entry, &*model)),
        }),
        DriversCommand::Proof { model, json } => built(model).map(|(entry, model)| match json {
            false => proof(entry, &*model),
            true => pretty(&proof_json(entry, &*model)),
        }),
    };
    match answer {
        Ok(text) => {
            // A reader that has gone has seen what it wanted.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Exit::Ok
        }
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "chairside: {why}");
            Exit::Usage
        }
    }
}

/// The model as it is without any option of a device map.
fn built(id: &str) -> Result<(&'static Entry, Box<dyn Model>), String> {
    let entry = chairside_drivers::find(id).ok_or_else(|| {
        let known: Vec<&str> = MODELS.iter().map(|entry| entry.id.as_str()).collect();
        format!("no driver has the id `{id}`; this version has {}", known.join(", "))
    })?;
    let model = (entry.build)(&Options::new()).map_err(|why| format!("build {id}: {why}"))?;
    Ok((entry, model))
}

fn list() -> String {
    let rows: Vec<[&str; 4]> = MODELS
        .iter()
        .map(|entry| [entry.id.as_str(), entry.evidence.word(), entry.title, entry.source])
        .collect();
    format!("{}\n{UNTESTED}", table(["MODEL", "EVIDENCE", "MACHINE", "SOURCE"], &rows))
}

fn show(entry: &Entry, model: &dyn Model) -> String {
    let rows: Vec<[&str; 5]> = model
        .channels()
        .iter()
        .map(|channel| {
            let unit = channel.unit.unwrap_or("");
            [channel.id.as_str(), kind_word(channel.kind), channel.example, unit, channel.meaning]
        })
        .collect();
    format!(
        "{} ({})\nevidence     {}: {}\nline         {}\ndefault map  {}\n\n{}\n{UNTESTED}",
        entry.title,
        entry.id,
        entry.evidence.word(),
        entry.source,
        line_words(model.line()),
        entry.default_map,
        table(["CHANNEL", "GIVES", "EXAMPLE", "UNIT", "MEANING"], &rows),
    )
}

fn proof(entry: &Entry, model: &dyn Model) -> String {
    let shown: Vec<[String; 5]> = model.requests().iter().map(request_words).collect();
    let rows: Vec<[&str; 5]> = shown.iter().map(|row| row.each_ref().map(String::as_str)).collect();
    let closing = match (model.line().direction, model.requests()) {
        (Direction::ListenOnly, _) | (_, []) => {
            "Nothing is ever sent: the port is opened for reading alone.\n"
        }
        (Direction::Poll, _) => {
            "Nothing else can leave: every outgoing frame is compared with this list before it reaches the port, and\n\
             one that is not on it closes the port. No request has an effect that changes the machine; there is no\n\
             such effect in the program.\n"
        }
    };
    let head = format!("Every frame that the driver {} can send to a {}:", entry.id, entry.title);
    format!("{head}\n\n{}\n{closing}", table(["REQUEST", "EFFECT", "BYTES", "TEXT", "SOURCE"], &rows))
}

fn request_words(request: &RequestSpec) -> [String; 5] {
    let text = request.bytes.iter().map(|byte| byte.escape_ascii().to_string()).collect();
    let effect = effect_word(request.effect).to_owned();
    [request.name.to_owned(), effect, hex(&request.bytes), text, request.source.to_owned()]
}

fn entry_json(entry: &Entry) -> Value {
    json!({
        "model": entry.id.as_str(),
        "machine": entry.title,
        "evidence": entry.evidence.word(),
        "source": entry.source,
        "default_map": entry.default_map,
    })
}

fn show_json(entry: &Entry, model: &dyn Model) -> Value {
    let line = model.line();
    let channel = |channel: &Channel| {
        let codes = match channel.kind {
            ChannelKind::Code(codes) => codes,
            ChannelKind::Number | ChannelKind::Alarm | ChannelKind::Mark | ChannelKind::Text => &[],
        };
        json!({
            "channel": channel.id.as_str(),
            "gives": kind_word(channel.kind),
            "codes": codes.iter().map(|(raw, name)| json!({ "raw": raw, "name": name })).collect::<Vec<_>>(),
            "unit": channel.unit,
            "example": channel.example,
            "meaning": channel.meaning,
        })
    };
    json!({
        "driver": entry_json(entry),
        "line": {
            "baud": line.baud,
            "data_bits": line.data_bits,
            "parity": parity_word(line.parity),
            "stop_bits": line.stop_bits,
            "writes": line.direction == Direction::Poll,
        },
        "channels": model.channels().iter().map(channel).collect::<Vec<_>>(),
    })
}

fn proof_json(entry: &Entry, model: &dyn Model) -> Value {
    let request = |request: &RequestSpec| {
        json!({
            "request": request.name,
            "effect": effect_word(request.effect),
            "bytes": hex(&request.bytes),
            "source": request.source,
        })
    };
    json!({
        "driver": entry_json(entry),
        "requests": model.requests().iter().map(request).collect::<Vec<_>>(),
    })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Columns as wide as their widest cell; the last one is left as it is.
fn table<const N: usize>(head: [&str; N], rows: &[[&str; N]]) -> String {
    let mut widths = head.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[&str; N]| {
        let padded: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    std::iter::once(line(&head)).chain(rows.iter().map(line)).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(" ")
}

fn line_words(line: LineSettings) -> String {
    let LineSettings { baud, data_bits, parity, stop_bits, direction } = line;
    let direction = match direction {
        Direction::Poll => "the gateway asks, the machine answers",
        Direction::ListenOnly => "the machine speaks, the port is opened for reading alone",
    };
    format!(
        "{baud} baud, {data_bits} data bits, {} parity, {stop_bits} stop bits; {direction}",
        parity_word(parity)
    )
}

const fn parity_word(parity: Parity) -> &'static str {
    match parity {
        Parity::None => "no",
        Parity::Even => "even",
        Parity::Odd => "odd",
    }
}

const fn kind_word(kind: ChannelKind) -> &'static str {
    match kind {
        ChannelKind::Number => "number",
        ChannelKind::Code(_) => "code",
        ChannelKind::Alarm => "alarm",
        ChannelKind::Mark => "mark",
        ChannelKind::Text => "text",
    }
}

const fn effect_word(effect: Effect) -> &'static str {
    match effect {
        Effect::Acknowledge => "acknowledge",
        Effect::Identify => "identify",
        Effect::KeepAlive => "keep alive",
        Effect::LinkTimeout => "link timeout",
        Effect::Read => "read",
        Effect::Select => "select",
        Effect::StopStreaming => "stop streaming",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_of_a_k_poll_driver_is_one_frame() {
        let (entry, model) = built("kpoll/nikkiso_dbb27c").unwrap();
        insta::assert_snapshot!(proof(entry, &*model), @r"
        Every frame that the driver kpoll/nikkiso_dbb27c can send to a Nikkiso DBB-27C:

        REQUEST  EFFECT  BYTES     TEXT   SOURCE
        poll     read    4B 0D 0A  K\r\n  PROTOCOL.md 1

        Nothing else can leave: every outgoing frame is compared with this list before it reaches the port, and
        one that is not on it closes the port. No request has an effect that changes the machine; there is no
        such effect in the program.
        ");
        assert_eq!(proof_json(entry, &*model)["requests"][0]["bytes"], "4B 0D 0A");
    }

    #[test]
    fn every_model_is_listed_with_its_evidence_and_can_be_shown() {
        let text = list();
        for entry in MODELS {
            assert!(text.contains(entry.id.as_str()) && text.contains(entry.evidence.word()));
            let (entry, model) = built(entry.id.as_str()).unwrap();
            let channels = show_json(entry, &*model)["channels"].as_array().map(Vec::len);
            assert_eq!(channels, Some(model.channels().len()));
            assert!(show(entry, &*model).contains(entry.default_map));
        }
    }

    #[test]
    fn an_unknown_model_is_a_wrong_command_line() {
        let command = DriversCommand::Show { model: String::from("kpoll/toaster"), json: false };
        assert_eq!(run(DriversArgs { command }), Exit::Usage);
    }
}
