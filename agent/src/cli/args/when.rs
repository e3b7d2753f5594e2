//! Moments as a person types them.

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

/// `90d`, `12h`, `30m` from now; a date; or a whole RFC 3339 time.
pub fn when(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(date) = text.parse::<Date>() {
        return date.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp()).map_err(|e| e.to_string());
    }
    let bad = || "write 90d, 12h or 30m, a date such as 2027-01-31, or a time such as 2027-01-31T12:00:00Z".to_owned();
    let unit = text.chars().last().ok_or_else(bad)?;
    let minutes = match unit {
        'd' => 24 * 60,
        'h' => 60,
        'm' => 1,
        _ => return Err(bad()),
    };
    let number = text.strip_suffix(unit).unwrap_or_default();
    let number: i64 = number.parse().ok().filter(|number| (1..=1_000_000).contains(number)).ok_or_else(bad)?;
    Timestamp::now().checked_add(SignedDuration::from_mins(number * minutes)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_dates_and_times_are_read() {
        let in_a_day = when("1d").unwrap().duration_since(Timestamp::now());
        assert!(in_a_day.as_secs() > 86_000 && in_a_day.as_secs() <= 86_400, "{in_a_day}");
        assert_eq!(when("2027-01-31").unwrap().to_string(), "2027-01-31T00:00:00Z");
        assert_eq!(when("2027-01-31T12:00:00Z").unwrap().to_string(), "2027-01-31T12:00:00Z");
        for text in ["", "d", "0d", "-1d", "1.5h", "90", "soon", "99999999999d"] {
            assert!(when(text).is_err(), "{text}");
        }
    }
}
