//! The contract as its descriptors tell it: every method, and messages that each would take.

use std::collections::HashMap;

use img2text::grpc::proto::DESCRIPTORS;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use super::dice::Dice;

const PACKAGE: &str = "img2text.v1";
/// How deep messages within messages are made up.
const DEPTH_MAX: usize = 4;

/// A method of the contract.
pub struct Method {
    /// As in `QuotaService/GetQuota`.
    pub name: String,
    /// As in `/img2text.v1.QuotaService/GetQuota`.
    pub path: String,
    /// The type of its requests, as descriptors name it.
    input: String,
}

/// All methods and messages.
pub struct Contract {
    methods: Vec<Method>,
    messages: HashMap<String, DescriptorProto>,
}

impl Contract {
    pub fn read() -> Self {
        let descriptors = FileDescriptorSet::decode(DESCRIPTORS).expect("descriptors");
        let (mut methods, mut messages) = (Vec::new(), HashMap::new());
        for file in &descriptors.file {
            let package = file.package();
            for message in &file.message_type {
                messages.insert(format!(".{package}.{}", message.name()), message.clone());
            }
            for service in file.service.iter().filter(|_| package == PACKAGE) {
                for method in &service.method {
                    let name = format!("{}/{}", service.name(), method.name());
                    let path = format!("/{package}.{name}");
                    methods.push(Method { name, path, input: method.input_type().into() });
                }
            }
        }
        Self { methods, messages }
    }

    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// A request of a method, encoded, with values that fit their fields.
    pub fn request(&self, method: &Method, files: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
        self.message(&method.input, files, dice, 0)
    }

    fn message(&self, name: &str, files: &[Vec<u8>], dice: &mut Dice, depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some(message) = self.messages.get(name).filter(|_| depth < DEPTH_MAX) else {
            return bytes;
        };
        for field in &message.field {
            let times = match field.label() {
                Label::Repeated => dice.below(3),
                // Most of them, most of the time.
                _ => usize::from(dice.below(8) > 0),
            };
            for _ in 0..times {
                self.field(field, files, dice, depth, &mut bytes);
            }
        }
        bytes
    }

    fn field(
        &self,
        field: &FieldDescriptorProto,
        files: &[Vec<u8>],
        dice: &mut Dice,
        depth: usize,
        bytes: &mut Vec<u8>,
    ) {
        let number = field.number() as u32;
        let content = match field.r#type() {
            Type::Message => self.message(field.type_name(), files, dice, depth + 1),
            Type::String => text(field.name(), dice),
            Type::Bytes => files[dice.below(files.len())].clone(),
            Type::Double => {
                encode_key(number, WireType::SixtyFourBit, bytes);
                return bytes.extend(1.0_f64.to_le_bytes());
            }
            Type::Float => {
                encode_key(number, WireType::ThirtyTwoBit, bytes);
                return bytes.extend(1.0_f32.to_le_bytes());
            }
            // The rest of what the contract has is written as a number.
            _ => {
                encode_key(number, WireType::Varint, bytes);
                return encode_varint(dice.below(4) as u64, bytes);
            }
        };
        encode_key(number, WireType::LengthDelimited, bytes);
        encode_varint(content.len() as u64, bytes);
        bytes.extend(content);
    }
}

fn text(field: &str, dice: &mut Dice) -> Vec<u8> {
    match field {
        "user_id" => format!("u{}", dice.below(20)),
        "languages" => "eng".into(),
        "page_token" => String::new(),
        _ => format!("a{}", dice.below(20)),
    }
    .into_bytes()
}
