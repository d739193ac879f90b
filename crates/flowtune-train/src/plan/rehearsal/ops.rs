//! What each operation of a training step takes and keeps, as `flowtune_engine::ops` have it.

use super::ledger::{Component, Ghost, Ledger, Operations};
use super::tape::{ParamId, Saved, Tape, Var};

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

/// Some outputs of a layer, for some rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) outputs: usize,
    pub(crate) rows: usize,
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

    /// `ops/linear`: x·Wᵀ and the low-rank addition, in `out_size` bytes an element.
    pub(crate) fn linear(&self, m: Machine, x: &Var, layer: &Layer, rows: usize, out_size: usize) -> Var {
        self.parts_of(m, &[x], layer, rows, &[Part { outputs: layer.outputs, rows }], out_size).remove(0)
    }

    /// `ops/linear`: some parts, of inputs that lie side by side.
    pub(crate) fn linear_parts(&self, m: Machine, xs: &[&Var], layer: &Layer, rows: usize, parts: &[Part]) -> Vec<Var> {
        self.parts_of(m, xs, layer, rows, parts, m.size)
    }

    fn parts_of(
        &self,
        m: Machine,
        xs: &[&Var],
        layer: &Layer,
        rows: usize,
        parts: &[Part],
        out_size: usize,
    ) -> Vec<Var> {
        let Layer { id, outputs, inputs, weight, kind, lora } = layer.clone();
        let ledger = self.ledger().clone();
        let (int8, quantised) = (kind == Kind::Int8, matches!(kind, Kind::Int8 | Kind::Nf4));
        // Masters are rounded for the product.
        let rounded = if kind == Kind::Trained && m.size < 4 { outputs * inputs * m.size } else { 0 };
        // Of an adapter, in `ops/linear/roundings.rs`: itself, or three roundings side by side. No tensors.
        let element = if m.size < 4 { 3 * m.size } else { m.size };
        let roundings =
            move |ledger: &Ledger, rank: usize| ledger.buffer(Component::Work, element * rank * (inputs + outputs));
        let at_work = lora.as_ref().map(|lora| roundings(&ledger, lora.rank));
        let adapter = lora.as_ref().map(|lora| {
            self.product(rows, inputs, lora.rank, false);
            parts.iter().for_each(|part| self.product(part.rows, lora.rank, part.outputs, false));
            (lora.rank, ledger.buffer(Component::Work, element * rows * lora.rank))
        });
        ledger.scratch(rounded);
        // What stands before int8 is rounded to bytes.
        let bytes = int8.then(|| ledger.buffer(Component::Work, rows * inputs));
        let made = |part: &Part| {
            self.product(part.rows, inputs, part.outputs, quantised);
            self.work(part.rows * part.outputs, out_size)
        };
        let values: Vec<Ghost> = parts.iter().map(made).collect();
        drop((at_work, bytes));

        let mut params = vec![match kind {
            Kind::Trained => self.param(3 * id, &weight),
            _ => Var::constant(weight),
        }];
        if let Some(lora) = &lora {
            params.extend([self.param(3 * id + 1, &lora.a), self.param(3 * id + 2, &lora.b)]);
        }
        let inputs_of: Vec<&Var> = xs.iter().copied().chain(&params).collect();
        let keeps_x = kind == Kind::Trained || adapter.is_some();
        let saved: Vec<Saved> = xs.iter().filter(|_| keeps_x).map(|x| x.saved()).collect();
        let buffers = adapter.iter().map(|(_, xa)| xa);
        let kept: Vec<Ghost> = saved.iter().flat_map(Saved::kept).chain(buffers).cloned().collect();
        let of_xs: Vec<(usize, usize)> = xs.iter().map(|x| (x.ghost.elements(), x.ghost.size())).collect();
        let parts = parts.to_vec();
        self.record_many(&inputs_of, values, &kept.iter().collect::<Vec<_>>(), |needs| {
            move |gradients: Vec<Option<Ghost>>| {
                let narrow = |g: &Option<Ghost>| {
                    let g = g.as_ref().filter(|g| g.size() != m.size)?;
                    Some(ledger.tensor(Component::Work, g.elements(), m.size))
                };
                let narrow: Vec<_> = gradients.iter().map(narrow).collect();
                let asked: Vec<Part> =
                    parts.into_iter().zip(&gradients).filter(|(_, g)| g.is_some()).map(|(part, _)| part).collect();
                let asked_rows = || asked.iter().map(|part| (part.rows, part.outputs));
                let rank = adapter.as_ref().map(|(rank, _)| *rank);
                let _at_work = rank.map(|rank| roundings(&ledger, rank));
                let gb = rank.map(|rank| {
                    asked_rows().for_each(|(rows, outputs)| multiply(&ledger, rows, outputs, rank, false));
                    ledger.buffer(Component::Work, element * rows * rank)
                });
                let mut out: Vec<Option<Ghost>> = Vec::new();
                for (&(elements, size), &need) in of_xs.iter().zip(&needs) {
                    out.push(need.then(|| {
                        let inputs = elements / rows.max(1);
                        asked_rows().for_each(|(rows, outputs)| multiply(&ledger, rows, outputs, inputs, quantised));
                        ledger.tensor(Component::Work, elements, size)
                    }));
                }
                // Rows that all parts are made of are the most that meet the weight at once.
                let at_once = asked_rows().map(|(rows, _)| rows).min().unwrap_or(0);
                let bytes = if int8 { at_once * asked_rows().map(|(_, outputs)| outputs).sum::<usize>() } else { 0 };
                if needs[..of_xs.len()].contains(&true) {
                    ledger.scratch(rounded + bytes);
                }
                let needs = &needs[of_xs.len()..];
                let _xs: Vec<Ghost> = saved.iter().map(|saved| saved.get(&ledger)).collect();
                out.push(needs[0].then(|| {
                    asked_rows().for_each(|(rows, outputs)| multiply(&ledger, outputs, rows, inputs, false));
                    let dw = ledger.tensor(Component::Gradients, outputs * inputs, 4);
                    // gᵀ is turned round: what is left of a product has its rows adjacent.
                    ledger.scratch(asked_rows().map(|(rows, outputs)| rows * outputs).max().unwrap_or(0) * m.size);
                    dw
                }));
                if let Some(rank) = rank {
                    multiply(&ledger, rows, rank, 2 * inputs, false);
                    asked_rows().for_each(|(rows, outputs)| multiply(&ledger, rows, rank, outputs, false));
                    out.push(needs[1].then(|| ledger.tensor(Component::Gradients, rank * inputs, 4)));
                    out.push(needs[2].then(|| {
                        // It comes transposed, and is turned round.
                        let _transposed = ledger.buffer(Component::Work, 4 * rank * outputs);
                        ledger.tensor(Component::Gradients, rank * outputs, 4)
                    }));
                }
                drop((saved, adapter, gb, narrow, gradients));
                out
            }
        })
    }

    /// `ops/norm.rs`: x in float32, modulated, in the activations' type.
    pub(crate) fn layer_norm_modulate(&self, x: &Var, modulation: &Var, m: Machine) -> Var {
        let value = self.work(x.ghost.elements(), m.size);
        let (saved, ledger, parameters) = (x.ghost.clone(), self.ledger().clone(), modulation.ghost.elements());
        let value = self.record(&[x, modulation], value, &[&x.ghost], |needs| {
            move |g| {
                let dx = needs[0].then(|| ledger.tensor(Component::Work, saved.elements(), 4));
                drop((saved, g));
                vec![dx, needs[1].then(|| ledger.tensor(Component::Work, parameters, 4))]
            }
        });
        self.cheap(value, Vec::new())
    }

    /// `ops/norm_rope.rs`: keeps its table too.
    pub(crate) fn rms_norm_rope(&self, x: &Var, table: &Ghost) -> Var {
        let value = self.work(x.ghost.elements(), x.ghost.size());
        let (saved, ledger) = ((x.ghost.clone(), table.clone()), self.ledger().clone());
        let value = self.record(&[x], value, &[&x.ghost, table], |_| {
            move |g| {
                let dx = ledger.tensor(Component::Work, saved.0.elements(), saved.0.size());
                drop((saved, g));
                vec![Some(dx)]
            }
        });
        self.cheap(value, Vec::new())
    }

    /// cos and sin of the angles of `tokens`.
    pub(crate) fn rope_table(&self, tokens: usize, width: usize) -> Ghost {
        self.work(tokens * width, 4)
    }

    /// `ops/swiglu.rs`.
    pub(crate) fn swiglu(&self, x: &Var) -> Var {
        let value = self.work(x.ghost.elements() / 2, x.ghost.size());
        let (saved, ledger) = (x.ghost.clone(), self.ledger().clone());
        let value = self.record(&[x], value, &[&x.ghost], |_| {
            move |g| {
                let dx = ledger.tensor(Component::Work, saved.elements(), saved.size());
                drop((saved, g));
                vec![Some(dx)]
            }
        });
        self.cheap(value, Vec::new())
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
        let value = self.record(parts, value, &[], |needs| {
            move |g| {
                let pieces: Vec<Ghost> = elements.iter().map(|&n| ledger.tensor(Component::Work, n, size)).collect();
                drop(g);
                pieces.into_iter().zip(needs).map(|(piece, need)| need.then_some(piece)).collect()
            }
        });
        match parts.iter().any(|part| part.is_made_again()) {
            true => self.cheap(value, parts.iter().flat_map(|part| part.saved().kept().to_vec()).collect()),
            false => value,
        }
    }

    /// `ops/layout.rs`: so many elements of x; all of them are x itself.
    pub(crate) fn narrow(&self, x: &Var, elements: usize) -> Var {
        let (all, size) = (x.ghost.elements(), x.ghost.size());
        if elements == all {
            return x.clone();
        }
        let (value, ledger) = (self.work(elements, size), self.ledger().clone());
        self.record(&[x], value, &[], |_| {
            move |g| {
                let _zeros = ledger.tensor(Component::Work, all - elements, size);
                let whole = ledger.tensor(Component::Work, all, size);
                drop(g);
                vec![Some(whole)]
            }
        })
    }

    /// `ops/attention.rs`: q, k, v of `heads` heads of `width` elements.
    pub(crate) fn attention(&self, m: Machine, [q, k, v]: [&Var; 3], batch: usize, heads: usize, width: usize) -> Var {
        let tokens = |x: &Var| x.ghost.elements() / (batch * heads * width).max(1);
        let (queries, keys) = (tokens(q), tokens(k));
        let threads = m.threads.min(batch * heads);
        let scores = 2.0 * (batch * heads * width) as f64 * (queries * keys) as f64;
        let panel = keys.next_multiple_of(PANEL) * width.next_multiple_of(PANEL) * m.size;
        let value = self.work(q.ghost.elements(), m.size);
        let lse = self.ledger().buffer(Component::Work, batch * heads * queries * 4);
        self.ledger().scratch(threads * (2 * panel + CHUNK.min(queries) * keys * (4 + m.size)));
        self.ledger().compute(Operations { plain: 2.0 * scores, quantised: 0.0 });
        let saved = [q, k, v].map(Var::saved);
        let made = [value.clone(), lse];
        let kept: Vec<Ghost> = saved.iter().flat_map(Saved::kept).chain(&made).cloned().collect();
        let ledger = self.ledger().clone();
        let backward = move |g: Ghost| {
            let [q, k, v] = saved.map(|saved| saved.get(&ledger));
            let gradients = [&q, &k, &v].map(|of| ledger.tensor(Component::Work, of.elements(), of.size()));
            let in_pass = QUERIES_PER_PASS.min(queries);
            let pass = in_pass.next_multiple_of(PANEL) * width.next_multiple_of(PANEL) * m.size;
            let sums = 4 * width * (2 * keys + in_pass) + 4 * queries;
            let probabilities = CHUNK.min(keys) * in_pass * m.size;
            // dS, and dS packed.
            let ds = 2 * keys * in_pass.next_multiple_of(PANEL) * m.size;
            ledger.scratch(threads * (4 * pass + sums + ds + probabilities));
            ledger.compute(Operations { plain: 5.0 * scores, quantised: 0.0 });
            drop((q, k, v, made, g));
            gradients.map(Some).to_vec()
        };
        self.record(&[q, k, v], value, &kept.iter().collect::<Vec<_>>(), |_| backward)
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
pub(crate) fn multiply(ledger: &Ledger, rows: usize, inner: usize, outputs: usize, quantised: bool) {
    let operations = 2.0 * rows as f64 * inner as f64 * outputs as f64;
    ledger.compute(match quantised {
        true => Operations { quantised: operations, plain: 0.0 },
        false => Operations { plain: operations, quantised: 0.0 },
    });
}
