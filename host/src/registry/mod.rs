//! Operations: specs, the access decision, dispatch, composition and cancellation.
