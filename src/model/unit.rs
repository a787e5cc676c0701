//! Units of measurement: UCUM codes, their dimension, and exact conversion between units of one dimension.

use chairside_drivers::kit::decimal::Decimal;

/// A UCUM unit that chairside knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// `mm[Hg]`
    MillimetreOfMercury,
    /// `kPa`
    Kilopascal,
    /// `mL`
    Millilitre,
    /// `dL`, for machines that count tenths of a litre
    Decilitre,
    /// `L`
    Litre,
    /// `mL/min`
    MillilitrePerMinute,
    /// `mL/h`
    MillilitrePerHour,
    /// `L/h`
    LitrePerHour,
    /// `Cel`
    Celsius,
    /// `mS/cm`
    MillisiemensPerCentimetre,
    /// `min`
    Minute,
    /// `h`
    Hour,
    /// `s`
    Second,
    /// `/min`
    PerMinute,
    /// `mmol/L`
    MillimolePerLitre,
    /// `%`
    Percent,
    /// `1`
    One,
}

/// What a unit measures; only units of one dimension convert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// Force per area.
    Pressure,
    /// Volume.
    Volume,
    /// Volume per time.
    Flow,
    /// Temperature.
    Temperature,
    /// Electrical conductivity.
    Conductivity,
    /// Time.
    Time,
    /// Events per time.
    Frequency,
    /// Amount of substance per volume.
    Concentration,
    /// A share or a plain number.
    Ratio,
}

/// Why a number cannot be given in another unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// The two units measure different things.
    #[error("{from} measures {from_dimension:?}, {to} measures {to_dimension:?}", from = .0.ucum(), from_dimension = .0.dimension(), to = .1.ucum(), to_dimension = .1.dimension())]
    Dimension(Unit, Unit),
    /// The result has more digits than a number can hold.
    #[error("too many digits")]
    TooLong,
}

impl Unit {
    /// Every unit.
    pub const ALL: &'static [Unit] = &[
        Self::MillimetreOfMercury,
        Self::Kilopascal,
        Self::Millilitre,
        Self::Decilitre,
        Self::Litre,
        Self::MillilitrePerMinute,
        Self::MillilitrePerHour,
        Self::LitrePerHour,
        Self::Celsius,
        Self::MillisiemensPerCentimetre,
        Self::Minute,
        Self::Hour,
        Self::Second,
        Self::PerMinute,
        Self::MillimolePerLitre,
        Self::Percent,
        Self::One,
    ];

    /// Code, dimension, and the factor to the dimension's base unit as a ratio.
    const fn row(self) -> (&'static str, Dimension, i64, i64) {
        use Dimension as D;
        match self {
            Self::MillimetreOfMercury => ("mm[Hg]", D::Pressure, 1, 1),
            // 1 kPa = 7.50061683 mm[Hg] (conventional mercury, 133.322387415 Pa).
            Self::Kilopascal => ("kPa", D::Pressure, 750_061_683, 100_000_000),
            Self::Millilitre => ("mL", D::Volume, 1, 1),
            Self::Decilitre => ("dL", D::Volume, 100, 1),
            Self::Litre => ("L", D::Volume, 1000, 1),
            Self::MillilitrePerMinute => ("mL/min", D::Flow, 60, 1),
            Self::MillilitrePerHour => ("mL/h", D::Flow, 1, 1),
            Self::LitrePerHour => ("L/h", D::Flow, 1000, 1),
            Self::Celsius => ("Cel", D::Temperature, 1, 1),
            Self::MillisiemensPerCentimetre => ("mS/cm", D::Conductivity, 1, 1),
            Self::Minute => ("min", D::Time, 60, 1),
            Self::Hour => ("h", D::Time, 3600, 1),
            Self::Second => ("s", D::Time, 1, 1),
            Self::PerMinute => ("/min", D::Frequency, 1, 1),
            Self::MillimolePerLitre => ("mmol/L", D::Concentration, 1, 1),
            Self::Percent => ("%", D::Ratio, 1, 100),
            Self::One => ("1", D::Ratio, 1, 1),
        }
    }

    /// The UCUM code.
    #[must_use]
    pub const fn ucum(self) -> &'static str {
        self.row().0
    }

    /// What it measures.
    #[must_use]
    pub const fn dimension(self) -> Dimension {
        self.row().1
    }

    /// The unit of a UCUM code.
    #[must_use]
    pub fn from_ucum(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|unit| unit.ucum() == code)
    }

    /// How numbers of this unit become numbers of `to`; worked out once, used for each reading.
    ///
    /// # Errors
    /// [`UnitError::Dimension`] when the two measure different things.
    pub fn conversion(self, to: Unit) -> Result<Conversion, UnitError> {
        let (_, dimension, up, down) = self.row();
        let (_, to_dimension, to_up, to_down) = to.row();
        if dimension != to_dimension {
            return Err(UnitError::Dimension(self, to));
        }
        let ratio = (i128::from(up) * i128::from(to_down), i128::from(down) * i128::from(to_up));
        Ok(match power_of_ten(ratio) {
            Some(0) => Conversion(Step::None),
            Some(power) => Conversion(Step::Shift(power)),
            None => Conversion(Step::Ratio(ratio)),
        })
    }

    /// `value` of this unit in `to`: exact where the ratio is a power of ten, else rounded to two more digits.
    ///
    /// # Errors
    /// [`UnitError`] when the dimensions differ or the digits do not fit.
    pub fn convert(self, value: Decimal, to: Unit) -> Result<Decimal, UnitError> {
        self.conversion(to)?.apply(value).ok_or(UnitError::TooLong)
    }
}

/// A worked-out way from one unit to another of the same dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion(Step);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    None,
    Shift(i8),
    Ratio((i128, i128)),
}

impl Conversion {
    /// The number in the other unit; `None` when its digits do not fit.
    #[must_use]
    pub fn apply(self, value: Decimal) -> Option<Decimal> {
        match self.0 {
            Step::None => Some(value),
            Step::Shift(power) => value.times_power_of_ten(power),
            Step::Ratio(ratio) => rounded(value, ratio),
        }
    }
}

fn power_of_ten((up, down): (i128, i128)) -> Option<i8> {
    (-12..=12).find(|&power: &i8| {
        let ten = 10_i128.pow(u32::from(power.unsigned_abs()));
        if power >= 0 { up == down * ten } else { up * ten == down }
    })
}

fn rounded(value: Decimal, (up, down): (i128, i128)) -> Option<Decimal> {
    let scale = value.scale().checked_add(2)?;
    let numerator = i128::from(value.mantissa()).checked_mul(100)?.checked_mul(up)?;
    let half = if numerator < 0 { -down / 2 } else { down / 2 };
    let mantissa = i64::try_from((numerator + half) / down).ok()?;
    Decimal::new(mantissa, scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(text: &str, from: Unit, to: Unit) -> String {
        from.convert(Decimal::parse(text.as_bytes()).unwrap(), to).unwrap().to_string()
    }

    #[test]
    fn litres_become_millilitres_without_a_digit_lost() {
        assert_eq!(converted("00.68", Unit::Litre, Unit::Millilitre), "680");
        assert_eq!(converted("0.805", Unit::LitrePerHour, Unit::MillilitrePerHour), "805");
        assert_eq!(converted("680", Unit::Millilitre, Unit::Litre), "0.680");
        assert_eq!(converted("00661", Unit::Decilitre, Unit::Litre), "66.1");
    }

    #[test]
    fn ratios_that_are_no_power_of_ten_are_rounded() {
        assert_eq!(converted("100", Unit::Second, Unit::Minute), "1.67");
        assert_eq!(converted("-10", Unit::Kilopascal, Unit::MillimetreOfMercury), "-75.01");
    }

    #[test]
    fn a_pressure_is_no_volume() {
        let why = Unit::Litre.convert(Decimal::ZERO, Unit::MillimetreOfMercury).unwrap_err();
        assert_eq!(why.to_string(), "L measures Volume, mm[Hg] measures Pressure");
    }

    #[test]
    fn codes_are_unique() {
        for unit in Unit::ALL {
            assert_eq!(Unit::from_ucum(unit.ucum()), Some(*unit));
        }
    }
}
