//! Which languages to expect, by the script that the text is written in.

use super::engine::Orientation;

/// How sure Tesseract has to be of a script before the languages of others are left out.
const SCRIPT_CONFIDENCE_MIN: f32 = 2.0;
/// The most languages that are chosen: each one more takes time and invites mistakes.
const LANGUAGES_MAX: usize = 3;

/// The languages of the scripts that Tesseract tells apart, besides Latin; all others of its
/// languages are written in Latin.
const LANGUAGES: [(&str, &[&str]); 19] = [
    ("Arabic", &["ara", "fas", "urd", "pus", "uig", "snd"]),
    ("Armenian", &["hye"]),
    ("Bengali", &["ben", "asm"]),
    ("Cyrillic", &["rus", "ukr", "bel", "bul", "srp", "mkd", "kaz", "kir", "mon", "tat", "tgk"]),
    ("Devanagari", &["hin", "mar", "nep", "san"]),
    ("Ethiopic", &["amh", "tir"]),
    ("Georgian", &["kat"]),
    ("Greek", &["ell", "grc"]),
    ("Gujarati", &["guj"]),
    ("Gurmukhi", &["pan"]),
    ("Han", &["chi_sim", "chi_tra"]),
    ("Hangul", &["kor"]),
    ("Hebrew", &["heb", "yid"]),
    ("Japanese", &["jpn"]),
    ("Kannada", &["kan"]),
    ("Khmer", &["khm"]),
    ("Tamil", &["tam"]),
    ("Telugu", &["tel"]),
    ("Thai", &["tha"]),
];

/// Chooses languages that are installed, those of the default first. Where the script is in doubt
/// they are the default, and the reader is told.
pub(super) fn languages(
    found: Option<Orientation>,
    installed: &[String],
    default: &[String],
    warnings: &mut Vec<String>,
) -> Vec<String> {
    let Some(found) = found else {
        warnings.push("there is too little text to tell its script: expected the default".into());
        return default.to_vec();
    };
    let is_of = |name: &&String| script_of(name) == found.script;
    let mut chosen: Vec<String> = default.iter().filter(is_of).cloned().collect();
    chosen.extend(installed.iter().filter(is_of).filter(|name| !default.contains(name)).cloned());
    chosen.truncate(LANGUAGES_MAX);
    if chosen.is_empty() {
        let script = &found.script;
        warnings
            .push(format!("the script seems to be {script}, of which no language is installed"));
        return default.to_vec();
    }
    if found.script_confidence < SCRIPT_CONFIDENCE_MIN {
        let others = default.iter().filter(|name| !chosen.contains(name)).cloned();
        let others: Vec<String> = others.collect();
        if !others.is_empty() {
            warnings.push(format!(
                "the script may be {} or another: letters that look alike, as in Latin and \
                 Cyrillic, may have been mistaken for one another",
                found.script
            ));
        }
        chosen.extend(others);
    }
    chosen
}

fn script_of(language: &str) -> &'static str {
    let listed = LANGUAGES.iter().find(|(_, languages)| languages.contains(&language));
    listed.map_or("Latin", |(script, _)| *script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ocr::geometry::Turn;

    fn choose(script: &str, confidence: f32, installed: &[&str]) -> (Vec<String>, usize) {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect();
        let installed: Vec<String> = names(installed);
        let default: Vec<String> = names(&["eng", "rus"]);
        let found = Orientation {
            upright: Turn::None,
            confidence: 10.0,
            script: script.into(),
            script_confidence: confidence,
        };
        let mut warnings = Vec::new();
        let chosen = languages(Some(found), &installed, &default, &mut warnings);
        (chosen, warnings.len())
    }

    #[test]
    fn the_languages_are_those_of_the_script() {
        let installed = ["deu", "ell", "eng", "rus", "ukr"];
        assert_eq!(choose("Latin", 9.0, &installed), (vec!["eng".into(), "deu".into()], 0));
        assert_eq!(choose("Cyrillic", 9.0, &installed), (vec!["rus".into(), "ukr".into()], 0));
        assert_eq!(choose("Greek", 9.0, &installed), (vec!["ell".into()], 0));
    }

    #[test]
    fn doubt_is_told() {
        let installed = ["eng", "rus"];
        assert_eq!(choose("Latin", 0.5, &installed), (vec!["eng".into(), "rus".into()], 1));
        assert_eq!(choose("Thai", 9.0, &installed), (vec!["eng".into(), "rus".into()], 1));
    }
}
