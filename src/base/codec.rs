//! Values as bytes: fields one after the other, each with its length in front.

/// Writes fields.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

/// Reads fields in the order in which they were written.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl Writer {
    /// Adds a number.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds a text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Adds a number that may not be there.
    pub fn optional(&mut self, number: Option<u64>) -> &mut Self {
        self.number(number.is_some().into()).number(number.unwrap_or_default())
    }

    /// All that was added.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

impl<'a> Reader<'a> {
    /// Reads what a [`Writer`] wrote; any bytes can be given, and then fields are missing.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next field, a number.
    pub fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    /// The next field, bytes.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// The next field, a text.
    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// The next field, a number that may not be there.
    pub fn optional(&mut self) -> Option<Option<u64>> {
        let is_there = self.number()? == 1;
        let number = self.number()?;
        Some(is_there.then_some(number))
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_read_as_they_were_written() {
        let mut writer = Writer::default();
        writer.number(7).text("a\nb").bytes(b"\xff").optional(None).optional(Some(3));
        let bytes = writer.finish();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.number(), Some(7));
        assert_eq!(reader.text(), Some("a\nb"));
        assert_eq!(reader.bytes(), Some(&b"\xff"[..]));
        assert_eq!((reader.optional(), reader.optional()), (Some(None), Some(Some(3))));
        assert!(reader.is_empty());
        assert_eq!(reader.number(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in any::<Vec<u8>>()) {
            let mut reader = Reader::new(&bytes);
            while !reader.is_empty() && reader.bytes().is_some() {}
            let _ = (reader.text(), reader.optional());
        }
    }
}
