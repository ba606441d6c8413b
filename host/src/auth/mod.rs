//! Who a key or a token belongs to.
