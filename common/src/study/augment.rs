//! `[training.augment]`: how the pictures of a training step are changed, anew in every epoch and each
//! record by itself. Scoring sees pictures as they are.

use serde::{Deserialize, Serialize};

use super::check::{StudyError, range};

/// Changes drawn for each picture. A field that is left out changes nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Which sides are exchanged, each with every second picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flip: Option<Flip>,
    /// The picture moves by up to this share of its height and of its width, each way. 0 to 0.5.
    pub shift: f64,
    /// It turns by up to so many degrees, each way. 0 to 180.
    pub rotate: f64,
    /// It grows or shrinks by up to this share. 0 to 0.5.
    pub scale: f64,
    /// Standard deviation of what is added to every pixel, as a share of the range from black to
    /// white. 0 to 1.
    pub noise: f64,
}

/// Which sides are exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flip {
    /// Left and right.
    Horizontal,
    /// Top and bottom.
    Vertical,
    /// Each pair by itself.
    Both,
}

impl Flip {
    /// Whether left and right may be exchanged, and whether top and bottom may.
    #[must_use]
    pub fn axes(self) -> [bool; 2] {
        [self != Self::Vertical, self != Self::Horizontal]
    }
}

impl Augment {
    /// Whether pixels change their place.
    #[must_use]
    pub fn moves(&self) -> bool {
        self.flip.is_some() || [self.shift, self.rotate, self.scale].iter().any(|most| *most > 0.0)
    }

    pub(super) fn check(&self) -> Result<(), StudyError> {
        for (field, have, most) in [
            ("training.augment.shift", self.shift, 0.5),
            ("training.augment.rotate", self.rotate, 180.0),
            ("training.augment.scale", self.scale, 0.5),
            ("training.augment.noise", self.noise, 1.0),
        ] {
            if !(0.0..=most).contains(&have) {
                return range(field, have, &format!("0 to {most} is accepted"));
            }
        }
        if !self.moves() && self.noise <= 0.0 {
            let need = "give it `flip`, `shift`, `rotate`, `scale` or `noise`, or leave it out";
            return range("training.augment", "nothing", need);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::study::Study;

    fn study(family: &str, training: &str) -> Result<Study, String> {
        let text = format!(
            "[study]\nname = \"xray\"\n[model]\nfamily = {family}\n[training]\n{training}\n\
             [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n"
        );
        Study::read(&text, "xray.toml").map_err(|error| error.to_string())
    }

    const CNN: &str = "\"cnn\"\ninput = { channels = 1, height = 9, width = 9 }\n\
                       classes = [\"n\", \"y\"]";

    #[test]
    fn it_may_stand_in_a_line_or_in_a_section_and_goes_through_the_signed_text() {
        let line = study(CNN, "augment = { flip = \"both\", shift = 0.1, rotate = 10 }").unwrap();
        let section = "[training.augment]\nflip = \"both\"\nshift = 0.1\nrotate = 10";
        assert_eq!(study(CNN, section).unwrap(), line);
        let text = line.resolve().unwrap().to_text().unwrap();
        for part in ["[training.augment]", "flip = \"both\"", "rotate = 10.0", "noise = 0.0"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let back = Study::read(&text, "signed").unwrap();
        assert_eq!(back.to_text().unwrap(), text);
        let plain = study(CNN, "").unwrap().resolve().unwrap().to_text().unwrap();
        assert!(!plain.contains("augment"), "{plain}");
    }

    #[test]
    fn what_makes_no_sense_is_told_by_its_field() {
        let synthetic = "\"synthetic\"\nparameters = 4";
        for (family, augment, said) in [
            (CNN, "shift = 0.6", "`training.augment.shift` is 0.6: 0 to 0.5 is accepted"),
            (CNN, "rotate = -5", "`training.augment.rotate` is -5: 0 to 180 is accepted"),
            (CNN, "scale = nan", "`training.augment.scale` is NaN"),
            (CNN, "noise = 1.5", "`training.augment.noise` is 1.5: 0 to 1 is accepted"),
            (CNN, "shift = 0", "`training.augment` is nothing"),
            (CNN, "flip = \"left\"", "unknown variant"),
            (CNN, "rotation = 5", "did you mean `rotate`?"),
            (synthetic, "noise = 0.1", "the synthetic family has no pictures: leave it out"),
        ] {
            let error = study(family, &format!("augment = {{ {augment} }}")).unwrap_err();
            assert!(error.contains(said), "{augment}: {error}");
        }
    }
}
