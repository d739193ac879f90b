//! What each operation of a training step takes and keeps, as `flowtune_engine::ops` have it.

use super::ledger::{Component, Ghost, Operations};
use super::tape::{ParamId, Tape, Var};

/// Keys of the backward, and queries of the forward, whose scores attention has in memory (`ops/attention.rs`).
const CHUNK: usize = 48;
/// Queries of one pass of attention's backward.
const QUERIES_PER_PASS: usize = 1536;
/// Columns of a packed panel (`cpu/product/kernel.rs`).
const PANEL: usize = 64;

/// A linear layer's weight, and its adapter's rank.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) id: ParamId,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) weight: Ghost,
    pub(crate) kind: Kind,
    pub(crate) lora: Option<Adapter>,
}

/// How a weight is stored, and whether it trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In the type of the activations, or as float32 masters, then to be rounded for each product.
    Frozen,
    /// Bytes, before which activations are rounded to bytes.
    Int8,
    /// Half bytes, made into numbers piece by piece.
    Nf4,
    /// Float32.
    Trained,
}

/// The two matrices of a LoRA, float32.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    pub(crate) rank: usize,
    pub(crate) a: Ghost,
    pub(crate) b: Ghost,
}

/// Samples, and tokens of each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) batch: usize,
    pub(crate) tokens: usize,
}

impl Rows {
    fn count(self) -> usize {
        self.batch * self.tokens
    }
}

/// What is the same for all operations of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    /// Bytes of an activation: 2 in bfloat16, 4 in float32.
    pub(crate) size: usize,
    /// Threads that attention spreads its heads over.
    pub(crate) threads: usize,
}

impl Tape {
    fn work(&self, elements: usize, size: usize) -> Ghost {
        self.ledger().tensor(Component::Work, elements, size)
    }

    /// A product `[rows, inner]` · `[inner, outputs]`.
    fn product(&self, rows: usize, inner: usize, outputs: usize, quantised: bool) {
        multiply(self.ledger(), rows, inner, outputs, quantised);
    }

    /// `ops/linear.rs`: x·Wᵀ and the low-rank addition, in `out_size` bytes an element.
    pub(crate) fn linear(&self, m: Machine, x: &Var, layer: &Layer, rows: usize, out_size: usize) -> Var {
        let Layer { id, outputs, inputs, weight, kind, lora } = layer.clone();
        let ledger = self.ledger().clone();
        let (int8, quantised) = (kind == Kind::Int8, matches!(kind, Kind::Int8 | Kind::Nf4));
        // Masters are rounded for the product.
        let rounded = if kind == Kind::Trained && m.size < 4 { outputs * inputs * m.size } else { 0 };
        // What stands before int8 is rounded to bytes.
        let bytes = move |columns: usize| if int8 { rows * (columns + 4) } else { 0 };
        // Of an adapter, in `ops/parts.rs`: itself, or three roundings side by side.
        let element = if m.size < 4 { 3 * m.size } else { m.size };
        let adapter = lora.as_ref().map(|lora| {
            let parts = element * lora.rank * (inputs + outputs);
            let xa = element * rows * lora.rank;
            self.product(rows, inputs, lora.rank, false);
            self.product(rows, lora.rank, outputs, false);
            // Adapters and x·Aᵀ as sums of matrices of the activations' type, or copies: no tensors.
            let kept = [ledger.buffer(Component::Work, parts), ledger.buffer(Component::Work, xa)];
            (lora.rank, kept)
        });
        let value = self.work(rows * outputs, out_size);
        ledger.scratch(rounded + bytes(inputs));
        self.product(rows, inputs, outputs, quantised);

        let mut params = vec![match kind {
            Kind::Trained => self.param(3 * id, &weight),
            _ => Var::constant(weight),
        }];
        if let Some(lora) = &lora {
            params.extend([self.param(3 * id + 1, &lora.a), self.param(3 * id + 2, &lora.b)]);
        }
        let inputs_of: Vec<&Var> = std::iter::once(x).chain(&params).collect();
        let keeps_x = kind == Kind::Trained || adapter.is_some();
        let saved = keeps_x.then(|| x.ghost.clone());
        let buffers = adapter.iter().flat_map(|(_, kept)| kept);
        let kept: Vec<Ghost> = saved.iter().chain(buffers).cloned().collect();
        let (x_size, x_elements) = (x.ghost.size(), x.ghost.elements());
        self.record(&inputs_of, value, &kept.iter().collect::<Vec<_>>(), |needs| {
            move |g: Ghost| {
                let narrow = (g.size() != m.size).then(|| ledger.tensor(Component::Work, g.elements(), m.size));
                let rank = adapter.as_ref().map(|(rank, _)| *rank);
                let gb = rank.map(|rank| {
                    multiply(&ledger, rows, outputs, rank, false);
                    ledger.buffer(Component::Work, element * rows * rank)
                });
                let dx = needs[0].then(|| {
                    multiply(&ledger, rows, outputs, inputs, quantised);
                    let dx = ledger.tensor(Component::Work, x_elements, x_size);
                    ledger.scratch(rounded + bytes(outputs));
                    dx
                });
                let mut out = vec![dx];
                out.push(needs[1].then(|| {
                    multiply(&ledger, outputs, rows, inputs, false);
                    let dw = ledger.tensor(Component::Gradients, outputs * inputs, 4);
                    // gᵀ is turned round: what is left of a product has its rows adjacent.
                    ledger.scratch(rows * outputs * m.size);
                    dw
                }));
                if let Some(rank) = rank {
                    multiply(&ledger, rows, rank, inputs + outputs, false);
                    multiply(&ledger, rows, rank, inputs, false);
                    out.push(needs[2].then(|| ledger.tensor(Component::Gradients, rank * inputs, 4)));
                    out.push(needs[3].then(|| {
                        // It comes transposed, and is turned round.
                        let _transposed = ledger.buffer(Component::Work, 4 * rank * outputs);
                        ledger.tensor(Component::Gradients, rank * outputs, 4)
                    }));
                }
                drop((saved, adapter, gb, narrow, g));
                out
            }
        })
    }

    /// `ops/norm.rs`: x in float32, modulated, in the activations' type.
    pub(crate) fn layer_norm_modulate(&self, x: &Var, modulation: &Var, m: Machine) -> Var {
        let value = self.work(x.ghost.elements(), m.size);
        let (saved, ledger, parameters) = (x.ghost.clone(), self.ledger().clone(), modulation.ghost.elements());
        self.record(&[x, modulation], value, &[&x.ghost], |needs| {
            move |g| {
                let dx = needs[0].then(|| ledger.tensor(Component::Work, saved.elements(), 4));
                drop((saved, g));
                vec![dx, needs[1].then(|| ledger.tensor(Component::Work, parameters, 4))]
            }
        })
    }

    /// `ops/norm_rope.rs`: keeps its table too.
    pub(crate) fn rms_norm_rope(&self, x: &Var, table: &Ghost) -> Var {
        let value = self.work(x.ghost.elements(), x.ghost.size());
        let (saved, ledger) = ((x.ghost.clone(), table.clone()), self.ledger().clone());
        self.record(&[x], value, &[&x.ghost, table], |_| {
            move |g| {
                let dx = ledger.tensor(Component::Work, saved.0.elements(), saved.0.size());
                drop((saved, g));
                vec![Some(dx)]
            }
        })
    }

    /// cos and sin of the angles of `tokens`.
    pub(crate) fn rope_table(&self, tokens: usize, width: usize) -> Ghost {
        self.work(tokens * width, 4)
    }

    /// `ops/swiglu.rs`.
    pub(crate) fn swiglu(&self, x: &Var) -> Var {
        let value = self.work(x.ghost.elements() / 2, x.ghost.size());
        let (saved, ledger) = (x.ghost.clone(), self.ledger().clone());
        self.record(&[x], value, &[&x.ghost], |_| {
            move |g| {
                let dx = ledger.tensor(Component::Work, saved.elements(), saved.size());
                drop((saved, g));
                vec![Some(dx)]
            }
        })
    }

    /// `ops/residual.rs`: x in float32 plus gated y, y in the activations' type.
    pub(crate) fn gated_residual(&self, x: &Var, modulation: &Var, y: &Var) -> Var {
        let value = self.work(x.ghost.elements(), x.ghost.size());
        let (saved, ledger, parameters) = (y.ghost.clone(), self.ledger().clone(), modulation.ghost.elements());
        self.record(&[x, modulation, y], value, &[&y.ghost], |needs| {
            move |g: Ghost| {
                let dm = needs[1].then(|| ledger.tensor(Component::Work, parameters, 4));
                let dy = needs[2].then(|| ledger.tensor(Component::Work, saved.elements(), saved.size()));
                vec![needs[0].then_some(g), dm, dy]
            }
        })
    }

    /// Of a few small values.
    pub(crate) fn sum(&self, parts: &[&Var]) -> Var {
        let value = self.work(parts[0].ghost.elements(), parts[0].ghost.size());
        self.record(parts, value, &[], |needs| {
            move |g: Ghost| needs.into_iter().map(|need| need.then(|| g.clone())).collect()
        })
    }

    /// `ops/layout.rs`: pieces with these numbers of elements.
    pub(crate) fn split(&self, x: &Var, elements: &[usize]) -> Vec<Var> {
        let size = x.ghost.size();
        let pieces = elements.iter().map(|&n| self.work(n, size)).collect();
        let (ledger, elements) = (self.ledger().clone(), elements.to_vec());
        self.record_many(&[x], pieces, &[], |_| {
            move |gradients: Vec<Option<Ghost>>| {
                let whole = gradients.into_iter().zip(&elements);
                let whole: Vec<Ghost> =
                    whole.map(|(g, &n)| g.unwrap_or_else(|| ledger.tensor(Component::Work, n, size))).collect();
                let joined = ledger.tensor(Component::Work, elements.iter().sum(), size);
                drop(whole);
                vec![Some(joined)]
            }
        })
    }

    pub(crate) fn cat(&self, parts: &[&Var]) -> Var {
        let elements: Vec<usize> = parts.iter().map(|p| p.ghost.elements()).collect();
        let size = parts[0].ghost.size();
        let value = self.work(elements.iter().sum(), size);
        let ledger = self.ledger().clone();
        self.record(parts, value, &[], |needs| {
            move |g| {
                let pieces: Vec<Ghost> = elements.iter().map(|&n| ledger.tensor(Component::Work, n, size)).collect();
                drop(g);
                pieces.into_iter().zip(needs).map(|(piece, need)| need.then_some(piece)).collect()
            }
        })
    }

    /// `ops/attention.rs`: q, k, v of `heads` heads of `width` elements.
    pub(crate) fn attention(&self, m: Machine, [q, k, v]: [&Var; 3], rows: Rows, heads: usize, width: usize) -> Var {
        let Rows { batch, tokens } = rows;
        let threads = m.threads.min(batch * heads);
        let scores = 2.0 * (batch * heads * width) as f64 * (tokens * tokens) as f64;
        let panel = tokens.next_multiple_of(PANEL) * width.next_multiple_of(PANEL) * m.size;
        let value = self.work(rows.count() * heads * width, m.size);
        let lse = self.ledger().buffer(Component::Work, batch * heads * tokens * 4);
        self.ledger().scratch(threads * (2 * panel + CHUNK.min(tokens) * tokens * (4 + m.size)));
        self.ledger().compute(Operations { plain: 2.0 * scores, quantised: 0.0 });
        let saved = [&q.ghost, &k.ghost, &v.ghost, &value, &lse].map(Ghost::clone);
        let kept: Vec<&Ghost> = saved.iter().collect();
        let ledger = self.ledger().clone();
        let held = saved.clone();
        let backward = move |g: Ghost| {
            let gradients = [0, 1, 2].map(|i| ledger.tensor(Component::Work, held[i].elements(), held[i].size()));
            let queries = QUERIES_PER_PASS.min(tokens);
            let pass = queries.next_multiple_of(PANEL) * width.next_multiple_of(PANEL) * m.size;
            let sums = 4 * width * (2 * tokens + queries) + 4 * tokens;
            let probabilities = CHUNK.min(tokens) * queries * m.size;
            // dS, and dS packed.
            let ds = 2 * tokens * queries.next_multiple_of(PANEL) * m.size;
            ledger.scratch(threads * (4 * pass + sums + ds + probabilities));
            ledger.compute(Operations { plain: 5.0 * scores, quantised: 0.0 });
            drop((held, g));
            gradients.map(Some).to_vec()
        };
        self.record(&[q, k, v], value, &kept, |_| backward)
    }

    /// In another type.
    pub(crate) fn cast(&self, x: &Var, size: usize) -> Var {
        let own = x.ghost.size();
        if own == size {
            return x.clone();
        }
        let value = self.work(x.ghost.elements(), size);
        let ledger = self.ledger().clone();
        self.record(&[x], value, &[], |_| move |g: Ghost| vec![Some(ledger.tensor(Component::Work, g.elements(), own))])
    }

    /// The elements in another order.
    pub(crate) fn rearranged(&self, x: &Var) -> Var {
        let value = self.work(x.ghost.elements(), x.ghost.size());
        let ledger = self.ledger().clone();
        self.record(&[x], value, &[], |_| {
            move |g: Ghost| vec![Some(ledger.tensor(Component::Work, g.elements(), g.size()))]
        })
    }

    /// `ops/loss.rs`: a number that keeps prediction and target.
    pub(crate) fn weighted_mse(&self, prediction: &Var, target: &Ghost) -> Var {
        let value = self.work(1, 4);
        let (saved, ledger) = ((prediction.ghost.clone(), target.clone()), self.ledger().clone());
        self.record(&[prediction], value, &[&prediction.ghost, target], |_| {
            move |_| {
                let gradient = ledger.tensor(Component::Work, saved.0.elements(), 4);
                drop(saved);
                vec![Some(gradient)]
            }
        })
    }
}

/// Counts a product `[rows, inner]` · `[inner, outputs]`.
pub(crate) fn multiply(ledger: &super::ledger::Ledger, rows: usize, inner: usize, outputs: usize, quantised: bool) {
    let operations = 2.0 * rows as f64 * inner as f64 * outputs as f64;
    ledger.compute(match quantised {
        true => Operations { quantised: operations, plain: 0.0 },
        false => Operations { plain: operations, quantised: 0.0 },
    });
}
