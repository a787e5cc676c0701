//! The rows of [`TABLE`]: what K-poll machines say in a unit that is known.
//!
//! A new row goes to the end and takes the next number; a row that is no longer wanted stays, because records name it.
//! Codes are from the dialysis machine implementation guide (IEEE 11073-10101) and LOINC; what has no public code gets
//! none, and encoders then use a code of our own. Ranges are what a haemodialysis machine can do, not what is healthy.

use crate::model::parameter::{Kind, Row};
use crate::model::unit::Unit as U;

/// Every parameter.
pub static TABLE: &[Row] = &[
    // Pressures of the blood and dialysate circuit: machine pressures, never a blood pressure.
    measured(1, "venous_pressure", "venous line pressure", U::MillimetreOfMercury)
        .mdc(158_776, "MDC_HDIALY_BLD_PUMP_PRESS_VEN")
        .at_most("450"),
    measured(2, "arterial_pressure", "arterial line pressure before the pump", U::MillimetreOfMercury)
        .mdc(158_744, "MDC_HDIALY_BLD_PRESS_ART")
        .at_least("-400"),
    measured(3, "transmembrane_pressure", "transmembrane pressure", U::MillimetreOfMercury)
        .mdc(158_852, "MDC_HDIALY_FILTER_TRANSMEMBRANE_PRESS")
        .loinc("99720-5")
        .at_most("700"),
    measured(4, "dialysate_pressure", "dialysate pressure", U::MillimetreOfMercury),
    // Flows. Zero is plausible: the pump stands, or the dialysate is in bypass.
    measured(5, "blood_flow_rate", "blood flow", U::MillilitrePerMinute)
        .mdc(158_740, "MDC_HDIALY_BLD_PUMP_BLOOD_FLOW_RATE")
        .between("0", "600"),
    measured(6, "dialysate_flow_rate", "dialysate flow", U::MillilitrePerMinute)
        .mdc(158_792, "MDC_HDIALY_DIALYSATE_FLOW_RATE")
        .loinc("99712-2")
        .between("0", "800"),
    measured(7, "uf_rate", "ultrafiltration rate", U::MillilitrePerHour)
        .mdc(159_036, "MDC_HDIALY_UF_RATE")
        .between("0", "4000"),
    // A syringe pump can be set from 0.1 mL/h; while it stands it reads zero.
    measured(8, "anticoagulant_rate", "anticoagulant infusion rate", U::MillilitrePerHour)
        .mdc(158_736, "MDC_HDIALY_ANTICOAG_INFUS_RATE")
        .between("0", "10"),
    measured(
        9,
        "substitution_rate",
        "substitution rate, before or after the filter not stated",
        U::LitrePerHour,
    ),
    // Dialysate.
    measured(10, "dialysate_temperature", "dialysate temperature", U::Celsius)
        .mdc(158_796, "MDC_HDIALY_DIALYSATE_TEMP")
        .between("33", "41"),
    measured(11, "dialysate_conductivity", "dialysate conductivity", U::MillisiemensPerCentimetre)
        .mdc(158_788, "MDC_HDIALY_DIALYSATE_COND")
        .between("12.5", "16.0"),
    measured(12, "substitution_temperature", "substitution fluid temperature", U::Celsius),
    // Totals of a treatment.
    total(13, "uf_removed_volume", "fluid volume removed", U::Millilitre)
        .mdc(159_032, "MDC_HDIALY_UF_ACTUAL_REMOVED_VOL")
        .loinc("99741-1"),
    total(14, "blood_volume_processed", "blood volume processed", U::Litre)
        .mdc(158_772, "MDC_HDIALY_BLD_PUMP_BLOOD_PROCESSED_TOTAL"),
    total(15, "treatment_time_elapsed", "elapsed treatment time", U::Minute)
        .mdc(158_720, "MDC_HDIALY_MACH_THERAPY_TIME"),
    total(
        16,
        "substitution_volume",
        "substitution volume so far, before or after the filter not stated",
        U::Litre,
    ),
    // Settings. The twins of measured values are for sites whose screen shows that the machine sends the set value.
    setting(17, "uf_target_volume", "fluid volume to remove", U::Millilitre)
        .mdc(159_028, "MDC_HDIALY_UF_TARGET_VOL_TO_REMOVE")
        .between("0", "20000"),
    setting(18, "substitution_target_volume", "substitution volume to reach", U::Litre),
    setting(19, "blood_flow_rate_setting", "blood flow, set", U::MillilitrePerMinute)
        .mdc(16_935_956, "MDC_HDIALY_BLD_PUMP_BLOOD_FLOW_RATE_SETTING")
        .between("50", "600"),
    setting(20, "dialysate_flow_rate_setting", "dialysate flow, set", U::MillilitrePerMinute)
        .mdc(16_936_008, "MDC_HDIALY_DIALYSATE_FLOW_RATE_SETTING")
        .between("100", "800"),
    setting(21, "uf_rate_setting", "ultrafiltration rate, set", U::MillilitrePerHour)
        .mdc(16_936_252, "MDC_HDIALY_UF_RATE_SETTING")
        .between("0", "4000"),
    setting(22, "dialysate_temperature_setting", "dialysate temperature, set", U::Celsius)
        .mdc(16_936_012, "MDC_HDIALY_DIALYSATE_TEMP_SETTING")
        .between("33", "40"),
    setting(
        23,
        "dialysate_conductivity_setting",
        "dialysate conductivity, set",
        U::MillisiemensPerCentimetre,
    )
    .mdc(16_936_004, "MDC_HDIALY_DIALYSATE_COND_SETTING")
    .between("12.5", "16.0"),
    setting(24, "nibp_interval_setting", "interval of blood pressure measurements", U::Minute)
        .mdc(67_979, "MDC_ATTR_TIME_PD_MSMT"),
    // Alarm limits: settings of the machine without a public code.
    setting(
        25,
        "venous_pressure_limit_low",
        "lower alarm limit of the venous pressure",
        U::MillimetreOfMercury,
    ),
    setting(
        26,
        "venous_pressure_limit_high",
        "upper alarm limit of the venous pressure",
        U::MillimetreOfMercury,
    ),
    setting(
        27,
        "arterial_pressure_limit_low",
        "lower alarm limit of the arterial pressure",
        U::MillimetreOfMercury,
    ),
    setting(
        28,
        "arterial_pressure_limit_high",
        "upper alarm limit of the arterial pressure",
        U::MillimetreOfMercury,
    ),
    setting(
        29,
        "transmembrane_pressure_limit_low",
        "lower alarm limit of the transmembrane pressure",
        U::MillimetreOfMercury,
    ),
    setting(
        30,
        "transmembrane_pressure_limit_high",
        "upper alarm limit of the transmembrane pressure",
        U::MillimetreOfMercury,
    ),
    setting(
        31,
        "dialysate_pressure_limit_low",
        "lower alarm limit of the dialysate pressure",
        U::MillimetreOfMercury,
    ),
    setting(
        32,
        "dialysate_pressure_limit_high",
        "upper alarm limit of the dialysate pressure",
        U::MillimetreOfMercury,
    ),
    setting(
        33,
        "nibp_systolic_limit_low",
        "lower alarm limit of the systolic pressure",
        U::MillimetreOfMercury,
    ),
    setting(
        34,
        "nibp_systolic_limit_high",
        "upper alarm limit of the systolic pressure",
        U::MillimetreOfMercury,
    ),
    // Isolated ultrafiltration is IUF here; machines print it as ECUM.
    state(35, "treatment_modality", "treatment modality", &["HD", "HDF", "HF", "SLED", "IUF", "HP"])
        .mdc(158_598, "MDC_HDIALY_MACH_TX_MODALITY"),
    // The cuff of the machine's own blood pressure module: the patient's.
    spot(36, "nibp_systolic", "systolic blood pressure by cuff", U::MillimetreOfMercury)
        .mdc(150_021, "MDC_PRESS_BLD_NONINV_SYS")
        .loinc("8480-6")
        .between("0", "400"),
    spot(37, "nibp_diastolic", "diastolic blood pressure by cuff", U::MillimetreOfMercury)
        .mdc(150_022, "MDC_PRESS_BLD_NONINV_DIA")
        .loinc("8462-4")
        .between("0", "300"),
    spot(38, "nibp_pulse_rate", "pulse rate by cuff", U::PerMinute)
        .mdc(149_546, "MDC_PULS_RATE_NON_INV")
        .loinc("8867-4")
        .between("0", "300"),
];

const fn measured(number: u16, key: &'static str, title: &'static str, unit: U) -> Row {
    row(number, key, title, Some(unit), Kind::Measured)
}

const fn total(number: u16, key: &'static str, title: &'static str, unit: U) -> Row {
    row(number, key, title, Some(unit), Kind::Total)
}

const fn setting(number: u16, key: &'static str, title: &'static str, unit: U) -> Row {
    row(number, key, title, Some(unit), Kind::Setting)
}

const fn spot(number: u16, key: &'static str, title: &'static str, unit: U) -> Row {
    row(number, key, title, Some(unit), Kind::Spot)
}

const fn state(number: u16, key: &'static str, title: &'static str, names: &'static [&'static str]) -> Row {
    row(number, key, title, None, Kind::State(names))
}

const fn row(number: u16, key: &'static str, title: &'static str, unit: Option<U>, kind: Kind) -> Row {
    Row { number, key, title, unit, mdc: None, loinc: None, plausible: (None, None), kind }
}

impl Row {
    const fn mdc(self, code: u32, refid: &'static str) -> Self {
        Self { mdc: Some((code, refid)), ..self }
    }

    const fn loinc(self, code: &'static str) -> Self {
        Self { loinc: Some(code), ..self }
    }

    const fn at_least(self, low: &'static str) -> Self {
        Self { plausible: (Some(low), None), ..self }
    }

    const fn at_most(self, high: &'static str) -> Self {
        Self { plausible: (None, Some(high)), ..self }
    }

    const fn between(self, low: &'static str, high: &'static str) -> Self {
        Self { plausible: (Some(low), Some(high)), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parameter::Parameter;
    use std::collections::HashSet;

    #[test]
    fn numbers_count_up_from_one_so_that_a_stored_number_finds_its_row() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(usize::from(row.number), index + 1, "{}", row.key);
            assert_eq!(Parameter::from_number(row.number).unwrap().key(), row.key);
        }
        assert_eq!(Parameter::from_number(0), None);
        assert_eq!(Parameter::from_number(u16::try_from(TABLE.len()).unwrap() + 1), None);
    }

    #[test]
    fn no_two_rows_share_a_key_a_title_or_an_mdc_code() {
        let mut seen = HashSet::new();
        for row in TABLE {
            assert!(seen.insert(row.key.to_owned()), "{}", row.key);
            assert!(seen.insert(row.title.to_owned()), "{}", row.title);
            if let Some((code, refid)) = row.mdc {
                assert!(seen.insert(code.to_string()), "{code}");
                assert!(seen.insert(refid.to_owned()), "{refid}");
            }
        }
    }

    #[test]
    fn loinc_codes_carry_their_own_check_digit() {
        for row in TABLE {
            let Some(code) = row.loinc else { continue };
            let (number, check) = code.split_once('-').unwrap();
            assert_eq!(check, mod_10(number).to_string(), "{code}");
        }
        assert_ne!(mod_10("99721"), mod_10("99720"), "the check sees a changed digit");
    }

    /// LOINC's check digit: Luhn's, doubling from the last digit.
    fn mod_10(number: &str) -> u32 {
        let sum: u32 = number
            .bytes()
            .rev()
            .enumerate()
            .map(|(place, digit)| {
                let value = u32::from(digit - b'0');
                let value = if place % 2 == 0 { value * 2 } else { value };
                value / 10 + value % 10
            })
            .sum();
        (10 - sum % 10) % 10
    }

    #[test]
    fn the_code_of_a_setting_is_the_code_of_what_it_sets_256_partitions_up() {
        let mut pairs = 0;
        for row in TABLE {
            let Some(measured) = row.key.strip_suffix("_setting").and_then(Parameter::from_key) else {
                continue;
            };
            let (measured_code, measured_refid) = measured.row().mdc.unwrap();
            let (code, refid) = row.mdc.unwrap();
            assert_eq!(code, measured_code + 256 * 65536, "{}", row.key);
            assert_eq!(refid, format!("{measured_refid}_SETTING"));
            pairs += 1;
        }
        assert_eq!(pairs, 5);
    }

    #[test]
    fn states_have_names_and_everything_else_a_unit() {
        for row in TABLE {
            match row.kind {
                Kind::State(names) => assert!(row.unit.is_none() && !names.is_empty(), "{}", row.key),
                Kind::Measured | Kind::Setting | Kind::Total | Kind::Spot => {
                    let unit = row.unit.unwrap();
                    assert_eq!(U::from_ucum(unit.ucum()), Some(unit), "{}", row.key);
                }
            }
        }
    }

    #[test]
    fn ranges_read_as_numbers_and_their_ends_are_in_order() {
        for parameter in Parameter::all() {
            let text = parameter.row().plausible;
            let (low, high) = parameter.plausible();
            assert_eq!(
                (text.0.is_some(), text.1.is_some()),
                (low.is_some(), high.is_some()),
                "{parameter:?}"
            );
            if let (Some(low), Some(high)) = (low, high) {
                assert!(low.compare(high).is_lt(), "{parameter:?}");
            }
        }
    }

    #[test]
    fn each_alarm_limit_belongs_to_a_value_and_has_no_public_code() {
        for row in TABLE {
            let Some(of) = row.key.strip_suffix("_limit_low").or_else(|| row.key.strip_suffix("_limit_high"))
            else {
                continue;
            };
            assert_eq!(Parameter::from_key(of).unwrap().row().unit, row.unit);
            assert_eq!((row.kind, row.mdc, row.loinc), (Kind::Setting, None, None));
        }
    }
}
