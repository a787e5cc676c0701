//! The item tables of the K-poll models, as data: what stands in an answer, in which order and how wide.
//!
//! PROTOCOL.md 4 to 7 give the source of each row. Examples are the values of the public frames.

use crate::kit::bytes::Reader;
use crate::kit::driver::ChannelKind;

/// The longest body of any table, the TR-8000's. A longer LEN is a damaged one.
pub(crate) const LONGEST_BODY: usize = 261;

/// The answer of one model.
#[derive(Debug)]
pub struct Table {
    /// The digit behind `K`, likely a format version.
    pub version: u8,
    /// Every item in the order of the wire.
    pub items: &'static [Item],
    /// How many of them an answer has at least; all of them where the format is known for certain.
    pub fewest: usize,
}

/// One item of an answer: a tag letter and a value of fixed width, nothing between them.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// The tag letter; also the channel's id.
    pub id: &'static str,
    /// The tag letter as it stands on the wire.
    pub tag: u8,
    /// Bytes of the value behind the tag.
    pub width: usize,
    /// What the value gives.
    pub kind: ChannelKind,
    /// What it means, in plain words.
    pub meaning: &'static str,
    /// The UCUM unit, where a source states it or the format implies it.
    pub unit: Option<&'static str>,
    /// A value as it stands on the wire.
    pub example: &'static str,
}

impl Table {
    /// Whether the items are exactly those of this table, from the first byte of the body to the last.
    #[must_use]
    #[inline]
    pub fn walks(&self, body: &[u8]) -> bool {
        let mut reader = Reader::new(body);
        let mut walked = 0;
        for item in self.items {
            match reader.byte() {
                None => break,
                Some(tag) if tag == item.tag && reader.take(item.width).is_some() => walked += 1,
                Some(_) => return false,
            }
        }
        reader.is_empty() && walked >= self.fewest
    }
}

impl Item {
    const fn new(id: &'static str, kind: ChannelKind, meaning: &'static str, example: &'static str) -> Self {
        let tag = match id.as_bytes() {
            [tag] => *tag,
            _ => 0,
        };
        Self { id, tag, width: example.len(), kind, meaning, unit: None, example }
    }

    const fn number(id: &'static str, meaning: &'static str, example: &'static str) -> Self {
        Self::new(id, ChannelKind::Number, meaning, example)
    }

    const fn alarm(id: &'static str, meaning: &'static str) -> Self {
        Self::new(id, ChannelKind::Alarm, meaning, "0")
    }

    const fn unnamed_code(id: &'static str, meaning: &'static str, example: &'static str) -> Self {
        Self::new(id, ChannelKind::Code(&[]), meaning, example)
    }

    const fn unit(self, unit: &'static str) -> Self {
        Self { unit: Some(unit), ..self }
    }

    const fn example(self, example: &'static str) -> Self {
        Self { example, ..self }
    }
}

// What both makers share. The examples are the TR-8000's.
const A: Item = Item::number("A", "UF goal", "03.80").unit("L");
const B: Item = Item::number("B", "UF volume removed", "03.08").unit("L");
const C: Item = Item::number("C", "UF rate", "00.95").unit("L/h");
const D: Item = Item::number("D", "blood flow", "00320").unit("mL/min");
const E: Item = Item::number("E", "syringe (heparin) rate", "002.0").unit("mL/h");
const F: Item = Item::number("F", "dialysate temperature", "037.0").unit("Cel");
const G: Item = Item::number("G", "dialysate conductivity", "014.1").unit("mS/cm");
const H: Item = Item::number("H", "venous pressure", "00129").unit("mm[Hg]");
const I: Item = Item::number("I", "dialysate pressure", "00084").unit("mm[Hg]");
const J: Item = Item::number("J", "transmembrane pressure", "00045").unit("mm[Hg]");
const K: Item = Item::number("K", "treatment time elapsed", "00194").unit("min");
const L: Item = Item::number("L", "dialysate flow", "00505").unit("mL/min");
const TEMPERATURE_ALARM: Item = Item::alarm("a", "dialysate temperature alarm");
const CONDUCTIVITY_ALARM: Item = Item::alarm("b", "dialysate conductivity alarm");
const VENOUS_ALARM: Item = Item::alarm("c", "venous pressure alarm");
const DIALYSATE_PRESSURE_ALARM: Item = Item::alarm("d", "dialysate pressure alarm");
const TMP_ALARM: Item = Item::alarm("e", "transmembrane pressure alarm");
const AIR_ALARM: Item = Item::alarm("f", "air detector alarm");
const BLOOD_LEAK_ALARM: Item = Item::alarm("g", "blood leak alarm");
const OTHER_ALARM: Item = Item::alarm("h", "other alarm");

/// Nikkiso DBB-27C.
pub static NIKKISO_DBB27C: Table = Table { version: b'2', items: DBB27C, fewest: DBB27C.len() };

const DBB27C: &[Item] = &[
    A.example("02.50"),
    B.example("00.68"),
    C.example("00.80"),
    D.example("00250"),
    E.example("002.0"),
    F.example("036.5"),
    G.example("014.4"),
    H.example(" 0170"),
    I.example(" 0153"),
    J.example(" 0061"),
    K.example("00054"),
    L.example("00500"),
    TEMPERATURE_ALARM,
    CONDUCTIVITY_ALARM,
    VENOUS_ALARM,
    DIALYSATE_PRESSURE_ALARM,
    TMP_ALARM,
    AIR_ALARM,
    BLOOD_LEAK_ALARM,
    OTHER_ALARM,
    Item::new("M", ChannelKind::Code(&[(0, "off"), (1, "on")]), "in treatment", "1"),
    Item::new("N", ChannelKind::Code(DBB27C_MODES), "treatment mode", "0"),
    Item::number("O", "substitution goal", "00.00").unit("L"),
    Item::number("P", "substitution volume so far", "00.00").unit("L"),
    Item::number("Q", "substitution rate", "00.00").unit("L/h"),
    Item::number("R", "substitution fluid temperature", "000.0").unit("Cel"),
    Item::new("S", ChannelKind::Mark, "time of the blood pressure measurement", "000/00"),
    Item::number("T", "systolic blood pressure, last measurement", "0000/").unit("mm[Hg]"),
    Item::number("U", "diastolic blood pressure, last measurement", "0000/").unit("mm[Hg]"),
    Item::number("V", "pulse, last blood pressure measurement", "0000/").unit("/min"),
    Item::alarm("i", "blood pressure alarm"),
];

/// The machine's mode 1, "ECUM", is ultrafiltration alone; its modes 2 and 4 are HDF with bags and online.
const DBB27C_MODES: &[(u32, &str)] = &[(0, "HD"), (1, "IUF"), (2, "HDF"), (3, "HF"), (4, "HDF")];

/// Toray TR-8000.
pub static TORAY_TR8000: Table = Table { version: b'1', items: TR8000, fewest: TR8000.len() };

const TR8000: &[Item] = &[
    A,
    B,
    C,
    D,
    E,
    F,
    G,
    H,
    I,
    J,
    K,
    TEMPERATURE_ALARM,
    CONDUCTIVITY_ALARM,
    VENOUS_ALARM,
    DIALYSATE_PRESSURE_ALARM,
    TMP_ALARM,
    AIR_ALARM,
    BLOOD_LEAK_ALARM,
    OTHER_ALARM,
    L,
    Item::new("M", ChannelKind::Mark, "count or time of the blood pressure measurement", "00004"),
    Item::number("N", "systolic blood pressure, last measurement", "00093").unit("mm[Hg]"),
    Item::number("O", "diastolic blood pressure, last measurement", "00064").unit("mm[Hg]"),
    Item::number("P", "pulse, last blood pressure measurement", "00080").unit("/min"),
    Item::number("Q", "systolic alarm limit, high", "00250").unit("mm[Hg]"),
    Item::number("R", "systolic alarm limit, low", "00100").unit("mm[Hg]"),
    Item::number("S", "cuff pressure", "00200").unit("mm[Hg]"),
    Item::number("T", "interval of the blood pressure measurements", "00000").unit("min"),
    Item::number("U", "blood volume processed, likely in tenths of a litre", "00661"),
    Item::number("V", "venous pressure alarm limit, high", "00187").unit("mm[Hg]"),
    Item::number("W", "venous pressure alarm limit, low", "00067").unit("mm[Hg]"),
    Item::number("X", "volume injected by the syringe, likely in tenths of a millilitre", "00065"),
    Item::number("Y", "dialysate pressure alarm limit, high", "00171").unit("mm[Hg]"),
    Item::number("Z", "dialysate pressure alarm limit, low", "-0029").unit("mm[Hg]"),
    Item::number("i", "sodium chloride infusion, unit not documented", "00000"),
    // The TR-3000's answer may end after any item from here to `n`: TR3000_FEWEST counts to `j`.
    Item::unnamed_code("j", "UF profile", "0"),
    Item::unnamed_code("k", "concentrate step", "0"),
    Item::unnamed_code("l", "conductivity step", "2"),
    Item::unnamed_code("m", "data communication state", "1"),
    Item::new("n", ChannelKind::Text, "serial number field", "        "),
    Item::number("o", "arterial pressure", "00012").unit("mm[Hg]"),
    Item::alarm("p", "arterial pressure alarm"),
    Item::number("q", "arterial pressure alarm limit, high", "00073").unit("mm[Hg]"),
    Item::number("r", "arterial pressure alarm limit, low", "-0047").unit("mm[Hg]"),
    Item::number("s", "transmembrane pressure alarm limit, high", "00153").unit("mm[Hg]"),
    Item::number("t", "transmembrane pressure alarm limit, low", "-0047").unit("mm[Hg]"),
    Item::number("u", "substitution rate, unit not documented", "000.0"),
    Item::number("v", "substitution goal, unit not documented", "00.00"),
    Item::number("w", "substitution progress, unit not documented", "00.00"),
    Item::unnamed_code("x", "sodium profile", "0"),
    Item::unnamed_code("y", "blood pump", "0"),
    Item::unnamed_code("z", "syringe pump", "0"),
    Item::unnamed_code("!", "dialysate profile", "0"),
    Item::number("#", "dialysate temperature set", "036.7").unit("Cel"),
    Item::alarm("$", "water shortage alarm"),
];

/// Toray TR-3000: the order of the TR-8000, ending somewhere from `j` to `n`.
pub static TORAY_TR3000: Table =
    Table { version: b'1', items: TR8000.split_at(TR3000_MOST).0, fewest: TR3000_FEWEST };

const TR3000_FEWEST: usize = 36;
const TR3000_MOST: usize = 40;

/// Toray TR-321: no `J`, no `e`, and two decimals in `E`, `F` and `G`.
pub static TORAY_TR321: Table = Table { version: b'1', items: TR321, fewest: TR321.len() };

const TR321: &[Item] = &[
    A.example("01.90"),
    B.example("01.35"),
    C.example("00.48"),
    D.example("00260"),
    E.example("02.00"),
    F.example("36.80"),
    G.example("13.90"),
    H.example("00167"),
    I.example("00148"),
    K.example("00167"),
    TEMPERATURE_ALARM,
    CONDUCTIVITY_ALARM,
    VENOUS_ALARM,
    DIALYSATE_PRESSURE_ALARM,
    AIR_ALARM,
    BLOOD_LEAK_ALARM,
    OTHER_ALARM,
];

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    const ALL: [&Table; 4] = [&NIKKISO_DBB27C, &TORAY_TR8000, &TORAY_TR3000, &TORAY_TR321];

    fn body_length(table: &Table) -> usize {
        table.items.iter().map(|item| 1 + item.width).sum()
    }

    #[test]
    fn bodies_are_as_long_as_the_public_frames_say() {
        assert_eq!(body_length(&NIKKISO_DBB27C), 143);
        assert_eq!(body_length(&TORAY_TR8000), 261);
        assert_eq!(body_length(&TORAY_TR321), 74);
        assert_eq!(ALL.iter().map(|table| body_length(table)).max(), Some(LONGEST_BODY));
    }

    #[test]
    fn a_tr3000_answer_ends_from_j_to_n() {
        assert_eq!(TORAY_TR3000.items[TR3000_FEWEST - 1].id, "j");
        assert_eq!(TORAY_TR3000.items.last().unwrap().id, "n");
    }

    #[test]
    fn every_tag_is_one_letter_and_stands_once_in_its_table() {
        for table in ALL {
            let tags: BTreeSet<u8> = table.items.iter().map(|item| item.tag).collect();
            assert_eq!(tags.len(), table.items.len());
            assert!(table.items.iter().all(|item| item.id.as_bytes() == [item.tag]));
        }
    }
}
