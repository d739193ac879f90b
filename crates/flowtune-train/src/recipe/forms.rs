//! Keys that may be written in more than one form: one value or a list of them, a text or an object.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The default of a key that is true.
pub(super) fn yes() -> bool {
    true
}

/// One value, or a list of them.
pub(super) fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct OneOrMany<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;

        fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
            out.write_str("one value or a list of them")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut values = Vec::new();
            while let Some(value) = list.next_element()? {
                values.push(value);
            }
            Ok(values)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(|value| vec![value])
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            T::deserialize(text.into_deserializer()).map(|value| vec![value])
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
            T::deserialize(number.into_deserializer()).map(|value| vec![value])
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
            T::deserialize(number.into_deserializer()).map(|value| vec![value])
        }
    }

    deserializer.deserialize_any(OneOrMany(PhantomData))
}

/// A list of one as its value.
pub(super) fn one_or_list<S: Serializer, T: Serialize>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    match list {
        [one] => one.serialize(serializer),
        list => list.serialize(serializer),
    }
}

/// What may be written as a text instead of an object.
pub(super) trait TextOrObject: Sized {
    /// What it may be, for messages.
    const EXPECTING: &'static str;

    fn of_text(text: String) -> Self;

    fn of_object<'de, D: Deserializer<'de>>(object: D) -> Result<Self, D::Error>;
}

/// Reads either form.
pub(super) fn text_or_object<'de, D: Deserializer<'de>, T: TextOrObject>(deserializer: D) -> Result<T, D::Error> {
    struct Either<T>(PhantomData<T>);

    impl<'de, T: TextOrObject> Visitor<'de> for Either<T> {
        type Value = T;

        fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
            out.write_str(T::EXPECTING)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            Ok(T::of_text(text.to_owned()))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::of_object(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_any(Either(PhantomData))
}
