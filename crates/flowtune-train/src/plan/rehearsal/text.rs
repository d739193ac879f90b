//! `flowtune_models::text::TextEncoder` over ghosts: float32, forward only.

use flowtune_models::text::TextConfig;

use super::ledger::{Component, Ghost, Ledger};
use super::ops::multiply;

/// Queries whose scores a thread has in memory (`ops/causal_attention.rs`).
const QUERY_CHUNK: usize = 64;

/// Loads the layers up to the last tap, of numbers with `stored` bytes as in the files, and encodes a prompt of `tokens`.
/// What comes back are the weights, which stay.
pub(crate) fn encode_text(
    ledger: &Ledger,
    c: &TextConfig,
    taps: &[usize],
    tokens: usize,
    stored: usize,
    threads: usize,
) -> Vec<Ghost> {
    let last = taps.iter().copied().max().unwrap_or(0);
    let mut weights = vec![load(ledger, c.vocab_size * c.hidden_size, stored)];
    for _ in 0..last {
        load_layer(ledger, c, stored, &mut weights);
    }
    forward(ledger, c, taps, tokens, threads, last);
    weights
}

/// A weight, read to where it stays.
fn load(ledger: &Ledger, elements: usize, stored: usize) -> Ghost {
    ledger.tensor(Component::TextEncoder, elements, stored)
}

fn load_layer(ledger: &Ledger, c: &TextConfig, stored: usize, weights: &mut Vec<Ghost>) {
    let (queries, keys) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let mlp = c.hidden_size * c.intermediate_size;
    let load = |elements: usize| load(ledger, elements, stored);
    // Gate and up are read first, then copied above each other.
    let _gate_up = [load(mlp), load(mlp)];
    weights.extend([queries, keys, keys, queries].map(|width| load(width * c.hidden_size)));
    weights.push(load(2 * mlp));
    if stored < 4 {
        // What is joined passes through float32.
        ledger.scratch(2 * mlp * 4);
    }
    weights.push(load(mlp));
}

fn forward(ledger: &Ledger, c: &TextConfig, taps: &[usize], tokens: usize, threads: usize, last: usize) {
    let state = |width: usize| ledger.tensor(Component::Work, tokens * width, 4);
    let (hidden, mlp) = (c.hidden_size, c.intermediate_size);
    let (queries, keys) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let product = |inner: usize, outputs: usize| multiply(ledger, tokens, inner, outputs, false);
    let mut taken = Vec::new();
    let mut x = state(hidden);
    for layer in 1..=last {
        let _normed = state(hidden);
        let attended = {
            let (q, k) = (state(queries), state(keys));
            // Norm and rotation each make new ones before the old ones go.
            let (q, k) = [(); 2].iter().fold((q, k), |_, ()| (state(queries), state(keys)));
            let _value = state(keys);
            let attended = state(queries);
            ledger.scratch(threads * QUERY_CHUNK.min(tokens) * tokens * 4);
            drop((q, k));
            product(hidden, queries + 2 * keys);
            product(queries, hidden);
            multiply(ledger, tokens * 2, tokens, queries, false);
            let out = state(hidden);
            drop(attended);
            out
        };
        x = {
            let _old = x;
            state(hidden)
        };
        drop(attended);
        let _normed = state(hidden);
        let fed = {
            let gate_up = state(2 * mlp);
            let gated = state(mlp);
            product(hidden, 2 * mlp);
            product(mlp, hidden);
            drop(gate_up);
            let out = state(hidden);
            drop(gated);
            out
        };
        x = {
            let _old = x;
            state(hidden)
        };
        drop(fed);
        if taps.contains(&layer) {
            taken.push(x.clone());
        }
    }
    let _stacked = state(taps.len() * hidden);
}
