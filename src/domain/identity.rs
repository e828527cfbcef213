//! The box itself, called `portal` in header templates.

/// The default identity of the box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub id: String,
    pub domain: String,
    /// SPKI PEM, 64 columns, trailing newline; empty if the box has no key.
    pub public_key_pem: String,
}

impl Identity {
    /// Number of characters of an id's short form.
    pub const SHORT: usize = 6;

    /// Returns the first six characters of the id, which peers put into `keyid`.
    #[must_use]
    pub fn short_id(&self) -> &str {
        short_id(&self.id)
    }
}

/// Returns the first six characters of an id.
#[must_use]
pub fn short_id(id: &str) -> &str {
    id.char_indices().nth(Identity::SHORT).map_or(id, |(end, _)| &id[..end])
}

/// Returns `id[:prefix_length].lower() + "." + zone`.
#[must_use]
pub fn derive_domain(id: &str, prefix_length: usize, zone: &str) -> String {
    let prefix: String = id.chars().take(prefix_length).collect();
    format!("{}.{zone}", prefix.to_lowercase())
}

/// Encodes five bits per character, most significant first, the last group zero-padded: a
/// SHA-512 digest becomes 103 characters.
#[must_use]
pub fn encode_id(digest: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghjklnpqrstvwxyz0123456789";
    let mut id = String::with_capacity(digest.len() * 8 / 5 + 1);
    let (mut bits, mut bit_count) = (0u32, 0u32);
    let mut push = |group: u32| id.push(char::from(ALPHABET[(group & 31) as usize]));
    for byte in digest {
        bits = (bits << 8) | u32::from(*byte);
        bit_count += 8;
        while bit_count >= 5 {
            bit_count -= 5;
            push(bits >> bit_count);
        }
    }
    if bit_count > 0 {
        push(bits << (5 - bit_count));
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_five_bits_a_character() {
        assert_eq!(encode_id(&[0; 64]).len(), 103);
        assert_eq!(encode_id(&[0xff; 5]), "99999999");
        // 0b00001_00010_00011_00100_00101_00110_00111_01000
        assert_eq!(encode_id(&[0x08, 0x86, 0x42, 0x98, 0xe8]), "bcdefghj");
        assert_eq!(encode_id(&[0b1111_1000, 0]), "9aaa");
    }

    #[test]
    fn a_domain_begins_with_the_lower_case_prefix() {
        assert_eq!(derive_domain("ABCdefghi", 6, "freeshard.cloud"), "abcdef.freeshard.cloud");
        assert_eq!(short_id("abc"), "abc");
        assert_eq!(short_id("abcdefg"), "abcdef");
    }
}
