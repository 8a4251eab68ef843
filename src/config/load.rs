//! Where the settings come from: the defaults, then one TOML file, then the environment, then the
//! command line. Each goes over those before it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Config;

/// What every environment variable of a setting begins with; section and field follow.
const VARIABLE_PREFIX: &str = "IMG2TEXT_";

/// The settings in force, and where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Every setting by its name: what is in force, and who said so.
    pub values: BTreeMap<String, (Value, Origin)>,
}

/// Who set a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// The file.
    File(PathBuf),
    /// An environment variable, by its name.
    Environment(String),
    /// The command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(variable) => f.write_str(variable),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {message}")]
pub struct Error {
    /// Who said what is wrong.
    pub origin: Origin,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Puts the settings together. `environment` may hold anything: only what begins with the name of
/// a section is looked at. `flags` are names of settings and their values, as text.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Error> {
    let mut values = defaults();
    if let Some(path) = file {
        read_file(path, &mut values)?;
    }
    for (variable, text) in environment {
        if let Some(name) = setting_of(&variable, &values)? {
            set_text(&mut values, &name, &text, Origin::Environment(variable))?;
        }
    }
    for (name, text) in flags {
        set_text(&mut values, &name, &text, Origin::CommandLine)?;
    }
    let config = assemble(&values)?;
    if let Some((name, message)) = config.violations().into_iter().next() {
        let (value, origin) = &values[name];
        let message = format!("{name} = {value}: {message}");
        return Err(Error { origin: origin.clone(), message });
    }
    Ok(Loaded { config, values })
}

/// The environment variable of a setting.
pub fn variable(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.replace('.', "_").to_uppercase())
}

type Values = BTreeMap<String, (Value, Origin)>;

fn defaults() -> Values {
    let table = Table::try_from(Config::default()).expect("settings are tables of plain values");
    let sections = table.into_iter().flat_map(|(section, fields)| {
        let Value::Table(fields) = fields else { unreachable!("a section is a table") };
        fields.into_iter().map(move |(field, value)| (format!("{section}.{field}"), value))
    });
    sections.map(|(name, value)| (name, (value, Origin::Default))).collect()
}

fn read_file(path: &Path, values: &mut Values) -> Result<(), Error> {
    let origin = Origin::File(path.to_path_buf());
    let error = |message: String| Error { origin: origin.clone(), message };
    let text = std::fs::read_to_string(path).map_err(|e| error(format!("cannot be read: {e}")))?;
    let table: Table = text.parse().map_err(|e: toml::de::Error| error(e.to_string()))?;
    for (section, fields) in table {
        let Value::Table(fields) = fields else {
            return Err(error(unknown(&section, values)));
        };
        for (field, value) in fields {
            let name = format!("{section}.{field}");
            if !values.contains_key(&name) {
                return Err(error(unknown(&name, values)));
            }
            values.insert(name, (value, origin.clone()));
        }
    }
    Ok(())
}

/// The setting that an environment variable is for. One that begins like a section but names no
/// setting is an error: somebody meant something by it.
fn setting_of(variable: &str, values: &Values) -> Result<Option<String>, Error> {
    let Some(rest) = variable.strip_prefix(VARIABLE_PREFIX) else { return Ok(None) };
    let rest = rest.to_lowercase();
    let Some((section, field)) = rest.split_once('_') else { return Ok(None) };
    let prefix = format!("{section}.");
    if !values.keys().any(|name| name.starts_with(&prefix)) {
        return Ok(None);
    }
    let name = format!("{section}.{field}");
    if values.contains_key(&name) {
        return Ok(Some(name));
    }
    Err(Error { origin: Origin::Environment(variable.into()), message: unknown(&name, values) })
}

/// Sets a value that is given as text, which is read as the kind of value that the setting has.
fn set_text(values: &mut Values, name: &str, text: &str, origin: Origin) -> Result<(), Error> {
    let Some((before, _)) = values.get(name) else {
        return Err(Error { origin, message: unknown(name, values) });
    };
    let value = match before {
        Value::Integer(_) => text.parse().ok().map(Value::Integer),
        Value::Float(_) => text.parse().ok().map(Value::Float),
        Value::Boolean(_) => text.parse().ok().map(Value::Boolean),
        Value::Array(_) => {
            let words = text.split([',', '+']).map(str::trim).filter(|word| !word.is_empty());
            Some(Value::Array(words.map(|word| Value::String(word.into())).collect()))
        }
        _ => Some(Value::String(text.into())),
    };
    let Some(value) = value else {
        let message = format!("{name}: {text:?} is not {}", kind(before));
        return Err(Error { origin, message });
    };
    values.insert(name.into(), (value, origin));
    Ok(())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        _ => "a text",
    }
}

fn unknown(name: &str, values: &Values) -> String {
    let near = values
        .keys()
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .filter(|(distance, known)| *distance <= known.len() / 3)
        .min();
    match near {
        Some((_, known)) => format!("there is no setting {name}; did you mean {known}?"),
        None => format!("there is no setting {name}; `img2text config show` lists them"),
    }
}

/// The settings from their values. A value of the wrong kind is reported with who set it.
fn assemble(values: &Values) -> Result<Config, Error> {
    let mut table = Table::new();
    for (name, (value, origin)) in values {
        let (section, field) = name.split_once('.').expect("every name has a section");
        let fields = Table::from_iter([(field.to_string(), value.clone())]);
        // Each by itself, so that the blame falls on the right one.
        Table::from_iter([(section.to_string(), Value::Table(fields))])
            .try_into::<Config>()
            .map_err(|error| Error {
                origin: origin.clone(),
                message: format!("{name}: {}", error.message()),
            })?;
        let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(section) = section else { unreachable!("a section is a table") };
        section.insert(field.to_string(), value.clone());
    }
    table.try_into().map_err(|error: toml::de::Error| Error {
        origin: Origin::Default,
        message: error.message().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
        pairs.map(|(name, value)| (name.into(), value.into())).into()
    }

    #[test]
    fn each_source_goes_over_those_before_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "[ocr]\nworkers = 2\nqueue_max = 5\npage_ms_max = 7000\n";
        std::fs::write(file.path(), text).unwrap();
        let environment = pairs([("IMG2TEXT_OCR_WORKERS", "3"), ("IMG2TEXT_OCR_QUEUE_MAX", "6")]);
        let flags = pairs([("ocr.workers", "4"), ("ocr.languages_default", "rus+eng")]);
        let loaded = load(Some(file.path()), environment, flags).unwrap();
        let ocr = &loaded.config.ocr;
        assert_eq!((ocr.workers, ocr.queue_max, ocr.page_ms_max), (4, 6, 7_000));
        assert_eq!(ocr.languages_default, ["rus", "eng"]);
        let origin = |name: &str| loaded.values[name].1.clone();
        assert_eq!(origin("ocr.workers"), Origin::CommandLine);
        assert_eq!(origin("ocr.queue_max"), Origin::Environment("IMG2TEXT_OCR_QUEUE_MAX".into()));
        assert_eq!(origin("ocr.page_ms_max"), Origin::File(file.path().into()));
        assert_eq!(origin("redis.url"), Origin::Default);
    }

    #[test]
    fn what_is_not_known_is_refused_with_a_suggestion() {
        let message = |environment, flags| load(None, environment, flags).unwrap_err().to_string();
        let typo = message(vec![], pairs([("ocr.wokers", "2")]));
        assert!(typo.contains("did you mean ocr.workers?"), "{typo}");
        let typo = message(pairs([("IMG2TEXT_OCR_WORKER", "2")]), vec![]);
        assert!(typo.starts_with("IMG2TEXT_OCR_WORKER: "), "{typo}");
        assert!(typo.contains("did you mean ocr.workers?"), "{typo}");
        let strange = message(vec![], pairs([("what", "2")]));
        assert!(strange.contains("config show"), "{strange}");
        // Variables that are somebody else's are left alone.
        load(None, pairs([("IMG2TEXT_SERVER", "http://x"), ("PATH", "/bin")]), vec![]).unwrap();
    }

    #[test]
    fn a_value_of_the_wrong_kind_or_size_is_refused() {
        let message =
            |name, value| load(None, vec![], pairs([(name, value)])).unwrap_err().to_string();
        assert!(message("ocr.workers", "many").contains("is not a whole number"));
        assert!(message("ocr.workers", "-1").contains("ocr.workers"));
        assert!(message("telemetry.log_format", "xml").contains("telemetry.log_format"));
        assert!(message("ocr.image_bytes_max", "0").contains("must be at least"));
        assert!(message("ocr.image_side_pixels_max", "32001").contains("at most 32000"));
        assert!(message("ocr.caller_share_percent", "101").contains("at most 100"));
        assert!(message("server.listen", "nowhere").contains("server.listen"));
        assert!(message("telemetry.trace_sampling_ratio", "1.5").contains("from 0 to 1"));
        assert!(message("telemetry.otlp_endpoint", "localhost:4317").contains("otlp_endpoint"));
    }

    #[test]
    fn the_name_of_a_variable_follows_from_that_of_the_setting() {
        assert_eq!(variable("quota.hold_ttl_ms_max"), "IMG2TEXT_QUOTA_HOLD_TTL_MS_MAX");
    }
}
