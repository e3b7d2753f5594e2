//! Numbers as ECMAScript writes them, which is how RFC 8785 has them.
//!
//! Invariant: two texts of one double become one text.

/// `None` for what is no finite double.
pub(super) fn ecmascript(text: &str) -> Option<String> {
    let number: f64 = text.parse().ok().filter(|number: &f64| number.is_finite())?;
    if number == 0.0 {
        return Some("0".into());
    }
    // The fewest digits that read back: where to put the point is all that is left to do.
    let shortest = format!("{:e}", number.abs());
    let (mantissa, exponent) = shortest.split_once('e')?;
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let point = exponent.parse::<i32>().ok()? + 1;
    let count = i32::try_from(digits.len()).ok()?;
    let zeros = |n: i32| "0".repeat(usize::try_from(n).unwrap_or_default());
    let split = |at: i32| digits.split_at(usize::try_from(at).unwrap_or_default());
    let unsigned = match point {
        _ if count <= point && point <= 21 => format!("{digits}{}", zeros(point - count)),
        1..=21 => {
            let (whole, rest) = split(point);
            format!("{whole}.{rest}")
        }
        -5..=0 => format!("0.{}{digits}", zeros(-point)),
        _ => {
            let (first, rest) = split(1);
            let dot = if rest.is_empty() { "" } else { "." };
            format!("{first}{dot}{rest}e{:+}", point - 1)
        }
    };
    Some(if number.is_sign_negative() { format!("-{unsigned}") } else { unsigned })
}

#[cfg(test)]
mod tests {
    use super::ecmascript;
    use proptest::prelude::*;

    /// Of RFC 8785, appendix B, by their bits.
    #[test]
    fn the_numbers_of_the_specification_come_out_as_it_has_them() {
        for (bits, text) in [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
        ] {
            let number = f64::from_bits(bits);
            assert_eq!(ecmascript(&format!("{number:e}")).as_deref(), Some(text), "{bits:x}");
        }
        assert_eq!(ecmascript("1.50E2").as_deref(), Some("150"));
        assert_eq!(ecmascript("1e400"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_the_same_number(number in any::<f64>()) {
            let text = ecmascript(&format!("{number:e}"));
            prop_assert_eq!(text.is_some(), number.is_finite());
            if let Some(text) = text {
                prop_assert_eq!(text.parse::<f64>().unwrap(), number);
                prop_assert_eq!(ecmascript(&text), Some(text));
            }
        }
    }
}
