//! BIP39 phrase, SLIP-0010 keys and AES-256-GCM entries: the secrets of a node, standalone and synchronous.
