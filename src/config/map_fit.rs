//! Whether a channel, a unit and a range fit a parameter.

use crate::config::problem::Problem;
use crate::config::raw::{Findings, Item, listed};
use crate::config::scalar;
use crate::model::parameter::{Kind, Parameter};
use crate::model::unit::{Dimension, Unit};
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::driver::{Channel, ChannelKind};
use std::cmp::Ordering;

/// The two ends of a range; either may be open.
type Range = (Option<Decimal>, Option<Decimal>);

/// Whether a channel can give a parameter at all.
pub(super) fn fits(
    item: &Item<'_>,
    channel: &Channel,
    parameter: Parameter,
    findings: &mut Findings,
) -> Option<()> {
    let what = format!("channel {} ({})", channel.id, channel.meaning);
    let problem = match (parameter.row().kind, channel.kind) {
        (_, ChannelKind::Text) => {
            let problem = item.problem(format!("{what} is text, and text may name a patient"));
            problem.hint("text is dropped at the privacy border; no parameter can come from it")
        }
        (_, ChannelKind::Mark) => {
            let problem = item.problem(format!("{what} only tells one measurement from the next"));
            problem.hint("use it in new_when_changes")
        }
        (_, ChannelKind::Alarm) => {
            item.problem(format!("{what} is an alarm")).hint("alarms are mapped under [alarm.<name>]")
        }
        (Kind::State(names), ChannelKind::Code(codes)) => {
            if codes.iter().any(|(_, name)| names.contains(name)) {
                return Some(());
            }
            let problem = item.problem(format!("{what} says nothing that `{}` can be", parameter.key()));
            problem.hint(format!("it can be {}", listed(names.iter().copied())))
        }
        (Kind::State(_), ChannelKind::Number) => {
            item.problem(format!("{what} is a number, `{}` is a state", parameter.key()))
        }
        (Kind::Measured | Kind::Setting | Kind::Total | Kind::Spot, ChannelKind::Code(_)) => {
            item.problem(format!("{what} is a code, `{}` is a number", parameter.key()))
        }
        (Kind::Measured | Kind::Setting | Kind::Total | Kind::Spot, ChannelKind::Number) => {
            if channel.unit.is_some() {
                return Some(());
            }
            let problem = item.problem(format!("{what} is raw: no source says what its number means"));
            problem.hint("raw channels stay unmapped until their unit is known to the driver")
        }
    };
    findings.add(problem);
    None
}

/// The units a parameter can be in.
pub(super) fn unit_hint(unit: Unit) -> String {
    format!("the unit on the machine's screen, one of {}", listed(units_like(unit)))
}

fn units_like(unit: Unit) -> impl Iterator<Item = &'static str> + Clone {
    let same = Unit::ALL.iter().filter(move |other| other.dimension() == unit.dimension());
    same.map(|unit| unit.ucum())
}

/// The unit on the machine's screen, held against the parameter and the channel.
pub(super) fn machine_unit_of(
    item: &Item<'_>,
    parameter: Parameter,
    channel: Option<&Channel>,
    findings: &mut Findings,
) -> Option<Unit> {
    let Some(stored) = parameter.row().unit else {
        let message = format!("`{}` is a state and has no unit", parameter.key());
        findings.add(Problem::new(item.key_place(), message).hint("take this line out"));
        return None;
    };
    let text = item.text(findings)?;
    let Some(unit) = Unit::from_ucum(text) else {
        findings.add(scalar::not_a_choice(item, text, units_like(stored)));
        return None;
    };
    if let Err(why) = unit.convert(Decimal::ZERO, stored) {
        let problem = item.problem(format!("`{}` cannot be in this unit: {why}", parameter.key()));
        findings.add(problem.hint(unit_hint(stored)));
        return None;
    }
    if let Some((channel, known)) = channel.and_then(|channel| Some((channel, channel.unit?)))
        && known != text
    {
        let message = format!("channel {} ({}) is in {known}, not in {text}", channel.id, channel.meaning);
        let hint = format!(
            "write machine_unit = \"{known}\": values are converted to {} by themselves",
            stored.ucum()
        );
        findings.add(item.problem(message).hint(hint));
        return None;
    }
    Some(unit)
}

/// What no dialysis machine can show, whatever the patient: beyond it a bound is a slip of unit or decimal point.
const fn sense(dimension: Dimension) -> (Unit, i64, i64) {
    match dimension {
        Dimension::Pressure => (Unit::MillimetreOfMercury, -1000, 1500),
        Dimension::Volume => (Unit::Litre, -50, 1000),
        Dimension::Flow => (Unit::MillilitrePerMinute, -2000, 3000),
        Dimension::Temperature => (Unit::Celsius, 0, 100),
        Dimension::Conductivity => (Unit::MillisiemensPerCentimetre, 0, 50),
        Dimension::Time => (Unit::Hour, 0, 168),
        Dimension::Frequency => (Unit::PerMinute, 0, 500),
        Dimension::Concentration => (Unit::MillimolePerLitre, 0, 2000),
        Dimension::Ratio => (Unit::Percent, -1000, 1000),
    }
}

/// The plausible range of a map, in the parameter's unit.
pub(super) fn plausible_range(
    item: &Item<'_>,
    parameter: Parameter,
    machine_unit: Unit,
    findings: &mut Findings,
) -> Option<Range> {
    let shape = "plausible = [lowest, highest], in machine_unit";
    let bounds = item.list(findings)?;
    let [low_item, high_item] = bounds.as_slice() else {
        findings.add(item.problem("a range has two ends").hint(shape));
        return None;
    };
    let (low, high) = (scalar::number(low_item, findings), scalar::number(high_item, findings));
    let (low, high) = (low?, high?);
    if low.compare(high) != Ordering::Less {
        findings.add(item.problem("the lower end is not below the upper one").hint(shape));
        return None;
    }
    let (limit_unit, least, most) = sense(machine_unit.dimension());
    for (bound, bound_item) in [(low, low_item), (high, high_item)] {
        let inside = machine_unit.convert(bound, limit_unit).is_ok_and(|bound| {
            bound.compare(Decimal::whole(least)) != Ordering::Less
                && bound.compare(Decimal::whole(most)) != Ordering::Greater
        });
        if !inside {
            let message = format!("no machine shows that: outside {least} to {most} {}", limit_unit.ucum());
            let hint = format!(
                "the range is in machine_unit, {}: is the unit or the decimal point right?",
                machine_unit.ucum()
            );
            findings.add(bound_item.problem(message).hint(hint));
            return None;
        }
    }
    let stored = parameter.row().unit?;
    let (Ok(low), Ok(high)) = (machine_unit.convert(low, stored), machine_unit.convert(high, stored)) else {
        findings.add(item.problem("these numbers have too many digits"));
        return None;
    };
    let (table_low, table_high) = parameter.plausible();
    let misses = table_low.is_some_and(|table| high.compare(table) == Ordering::Less)
        || table_high.is_some_and(|table| low.compare(table) == Ordering::Greater);
    if misses {
        let said =
            |bound: Option<Decimal>| bound.map_or_else(|| String::from("any"), |bound| bound.to_string());
        let message = format!("nothing in this range is plausible for `{}`", parameter.key());
        let hint = format!("usual: {} to {} {}", said(table_low), said(table_high), stored.ucum());
        findings.add(item.problem(message).hint(hint));
        return None;
    }
    Some((Some(low), Some(high)))
}
