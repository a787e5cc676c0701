//! The item tables of the K-poll models, as data: what stands in an answer, in which order and how wide.
//!
//! PROTOCOL.md 4 to 7 give the source of each row. Examples are the values of the public frames.

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
    /// The length of the shortest body an answer can have.
    shortest: usize,
    /// The length of the body with every item.
    longest: usize,
    /// Where each tag stands in the body; 0 where a value stands. The whole walk is one comparison of two rows of bytes.
    tags: [u8; LONGEST_BODY],
    /// All bits where a tag stands, none where a value stands.
    fixed: [u8; LONGEST_BODY],
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
    /// Where the digits and the point of a number usually stand: where they do in the example.
    pub(crate) columns: Columns,
}

/// Five columns of a number as one word, first column in the lowest byte. Made at compile time; reading a value that
/// keeps to it takes a handful of instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    /// `0` where a digit stands, `.` where the point stands.
    pub(crate) zeros: u64,
    /// Added to a digit 0 to 9, or to the place of the point, it leaves the high bit clear; added to more, it sets it.
    pub(crate) headroom: u64,
    /// All bits of the columns in front of the point; none where there is no point.
    pub(crate) whole: u64,
    /// Digits behind the point.
    pub(crate) decimals: u8,
}

impl Columns {
    pub(crate) const fn of(example: &str) -> Self {
        let mut columns = Self { zeros: 0, headroom: 0, whole: 0, decimals: 0 };
        let mut rest = example.as_bytes();
        let mut point = false;
        let mut place = 0;
        while let [column, behind @ ..] = rest {
            let is_point = *column == b'.' && !point;
            if place < 5 {
                columns.zeros |= (if is_point { 0x2E } else { 0x30 }) << (8 * place);
                columns.headroom |= (if is_point { 0x7F } else { 0x76 }) << (8 * place);
            }
            if is_point {
                point = true;
                columns.whole = (1 << (8 * place)) - 1;
            } else if point {
                columns.decimals += 1;
            }
            place += 1;
            rest = behind;
        }
        columns
    }
}

impl Table {
    /// A table whose answers may end after any item from number `fewest` on.
    #[expect(
        clippy::indexing_slicing,
        reason = "runs at compile time, where a place outside is a build error"
    )]
    const fn new(version: u8, items: &'static [Item], fewest: usize) -> Self {
        let (mut tags, mut fixed) = ([0; LONGEST_BODY], [0; LONGEST_BODY]);
        let (mut shortest, mut longest) = (0, 0);
        let mut count = 0;
        while count < items.len() {
            tags[longest] = items[count].tag;
            fixed[longest] = 0xFF;
            longest += 1 + items[count].width;
            count += 1;
            if count == fewest {
                shortest = longest;
            }
        }
        Self { version, items, shortest, longest, tags, fixed }
    }

    /// Whether the items are exactly those of this table, from the first byte of the body to the last.
    #[must_use]
    #[inline]
    pub fn walks(&self, body: &[u8]) -> bool {
        let length = body.len();
        let ends_with_an_item = length == self.longest
            || (length >= self.shortest
                && length < self.longest
                && self.tags.get(length).is_some_and(|tag| *tag != 0));
        // Without an early end, so that many bytes are compared at once.
        let rows = body.iter().zip(&self.tags).zip(&self.fixed);
        ends_with_an_item && rows.fold(0, |astray, ((byte, tag), fixed)| astray | ((byte ^ tag) & fixed)) == 0
    }
}

impl Item {
    const fn new(id: &'static str, kind: ChannelKind, meaning: &'static str, example: &'static str) -> Self {
        let tag = match id.as_bytes() {
            [tag] => *tag,
            _ => 0,
        };
        let columns = Columns::of(example);
        Self { id, tag, width: example.len(), kind, meaning, unit: None, example, columns }
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
        Self { example, columns: Columns::of(example), ..self }
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
pub static NIKKISO_DBB27C: Table = Table::new(b'2', DBB27C, DBB27C.len());

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
pub static TORAY_TR8000: Table = Table::new(b'1', TR8000, TR8000.len());

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
pub static TORAY_TR3000: Table = Table::new(b'1', TR8000.split_at(TR3000_MOST).0, TR3000_FEWEST);

const TR3000_FEWEST: usize = 36;
const TR3000_MOST: usize = 40;

/// Toray TR-321: no `J`, no `e`, and two decimals in `E`, `F` and `G`.
pub static TORAY_TR321: Table = Table::new(b'1', TR321, TR321.len());

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
    use alloc::vec::Vec;

    const ALL: [&Table; 4] = [&NIKKISO_DBB27C, &TORAY_TR8000, &TORAY_TR3000, &TORAY_TR321];

    #[test]
    fn bodies_are_as_long_as_the_public_frames_say() {
        for (table, length) in [(&NIKKISO_DBB27C, 143), (&TORAY_TR8000, 261), (&TORAY_TR321, 74)] {
            assert_eq!((table.shortest, table.longest), (length, length));
        }
        assert_eq!(ALL.iter().map(|table| table.longest).max(), Some(LONGEST_BODY));
    }

    #[test]
    fn a_walk_ends_where_an_item_ends_and_meets_every_tag() {
        for table in ALL {
            let body: Vec<u8> = table
                .items
                .iter()
                .flat_map(|item| [item.tag].into_iter().chain(item.example.bytes()))
                .collect();
            let ends = (0..=body.len() + 6).filter(|length| {
                let mut body = body.clone();
                body.resize(*length, b'A');
                table.walks(&body)
            });
            let expected: &[usize] =
                if body.len() == 195 { &[180, 182, 184, 186, 195] } else { &[body.len()] };
            assert_eq!(ends.collect::<Vec<_>>(), expected);
            let mut at = 0;
            for item in table.items {
                let mut wrong = body.clone();
                wrong[at] ^= 0x20;
                assert!(!table.walks(&wrong), "{}", item.id);
                at += 1 + item.width;
            }
        }
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
