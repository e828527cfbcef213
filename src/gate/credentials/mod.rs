//! What proves who asks: a terminal's token, a peer's signature, the management secret.
