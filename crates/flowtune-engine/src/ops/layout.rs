//! Moves without arithmetic: reshape, split and join, pack and unpack.

use crate::cpu::memory::unfilled;
use crate::cpu::parallel;
use crate::cpu::strided::{self, Walk, row_major};
use crate::device::{self, composed};
use crate::dtype::{Stored, with_stored};
use crate::error::{Result, shape_error};
use crate::ops::broadcast::broadcast_to;
use crate::saved::Saved;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// The same elements in another shape.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the number of elements differs.
    pub fn reshape(&self, x: &Var, shape: &[usize]) -> Result<Var> {
        let value = x.tensor().reshape(shape)?;
        let before = x.tensor().shape().to_vec();
        let value = self.record(&[x], value, |_| move |g: Tensor| Ok(vec![Some(g.reshape(&before)?)]));
        if !x.is_made_again() {
            return Ok(value);
        }
        let (saved, shape) = (x.saved(), shape.to_vec());
        Ok(self.cheap(value, move || saved.get()?.reshape(&shape)))
    }

    /// Cuts the last dimension into pieces of `sizes`: x `[.., Σ sizes]` → `[.., size]` each.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the sizes do not add up.
    pub fn split_last(&self, x: &Var, sizes: &[usize]) -> Result<Vec<Var>> {
        if sizes.iter().sum::<usize>() != x.tensor().last_dim() {
            return Err(shape_error("split_last", "x", format!("[.., Σ {sizes:?}]"), x.tensor().shape()));
        }
        let values = cut(x.tensor(), sizes)?;
        let shapes: Vec<_> = values.iter().map(|v| v.shape().to_vec()).collect();
        let (dtype, device) = (x.tensor().dtype(), x.tensor().device());
        Ok(self.record_many(&[x], values, |_| {
            move |gradients| {
                let whole: Vec<Tensor> = gradients
                    .into_iter()
                    .zip(&shapes)
                    .map(|(g, shape)| g.map_or_else(|| Tensor::zeros_on(shape, dtype, &device), Ok))
                    .collect::<Result<_>>()?;
                Ok(vec![Some(join(&whole)?)])
            }
        }))
    }

    /// Joins along the last dimension: the inverse of [`Tape::split_last`].
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the leading extents differ.
    pub fn cat_last(&self, parts: &[&Var]) -> Result<Var> {
        let tensors: Vec<Tensor> = parts.iter().map(|p| p.tensor().clone()).collect();
        let sizes: Vec<usize> = tensors.iter().map(Tensor::last_dim).collect();
        let value = join(&tensors)?;
        let value = self.record(parts, value, |needs| {
            move |g: Tensor| Ok(cut(&g, &sizes)?.into_iter().zip(needs).map(|(g, n)| n.then_some(g)).collect())
        });
        if !parts.iter().any(|part| part.is_made_again()) {
            return Ok(value);
        }
        let saved: Vec<Saved> = parts.iter().map(|part| part.saved()).collect();
        Ok(self.cheap(value, move || join(&saved.iter().map(Saved::get).collect::<Result<Vec<_>>>()?)))
    }

    /// Joins along dimension `dim`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the other extents differ, there is no such dimension, or nothing to join.
    pub fn cat(&self, parts: &[&Var], dim: usize) -> Result<Var> {
        let Some(first) = parts.first().filter(|first| dim < first.tensor().shape().len()) else {
            let got = parts.first().map_or(&[][..], |first| first.tensor().shape());
            return Err(shape_error("cat", "parts", format!("with a dimension {dim}"), got));
        };
        let (lead, tail) = (&first.tensor().shape()[..dim], &first.tensor().shape()[dim + 1..]);
        let width: usize = tail.iter().product();
        let flat = parts.iter().map(|part| {
            let shape = part.tensor().shape();
            if shape.len() <= dim || shape[..dim] != *lead || shape[dim + 1..] != *tail {
                return Err(shape_error("cat", "parts", format!("[{lead:?}, n, {tail:?}]"), shape));
            }
            self.reshape(part, &[lead.iter().product(), shape[dim] * width])
        });
        let flat = flat.collect::<Result<Vec<_>>>()?;
        let joined = self.cat_last(&flat.iter().collect::<Vec<_>>())?;
        let extent: usize = parts.iter().map(|part| part.tensor().dim(dim)).sum();
        self.reshape(&joined, &[lead, &[extent], tail].concat())
    }

    /// Entries `start..start + length` of dimension `dim`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when x has no such entries.
    pub fn narrow(&self, x: &Var, dim: usize, start: usize, length: usize) -> Result<Var> {
        let shape = x.tensor().shape().to_vec();
        if shape.get(dim).is_none_or(|&extent| start + length > extent) {
            let expected = format!("with at least {} entries in dimension {dim}", start + length);
            return Err(shape_error("narrow", "x", expected, &shape));
        }
        let tail: usize = shape[dim + 1..].iter().product();
        let rows = shape[..dim].iter().product();
        let sizes = [start, length, shape[dim] - start - length].map(|entries| entries * tail);
        let flat = x.tensor().reshape(&[rows, shape[dim] * tail])?;
        let narrowed = [&shape[..dim], &[length], &shape[dim + 1..]].concat();
        let value = with_stored!(flat.dtype(), "narrow", T => cut_one::<T>(&flat, sizes[0], sizes[1]))?;
        Ok(self.record(&[x], value.reshape(&narrowed)?, |_| {
            move |g: Tensor| Ok(vec![Some(between_zeros(&g.reshape(&[rows, sizes[1]])?, sizes)?.reshape(&shape)?)])
        }))
    }

    /// Dimensions in another order: entry i of `dims` is the dimension that comes i-th.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when `dims` does not name each dimension of x once.
    pub fn permute(&self, x: &Var, dims: &[usize]) -> Result<Var> {
        let value = permute(x.tensor(), dims)?;
        let mut back = vec![0; dims.len()];
        dims.iter().enumerate().for_each(|(i, &dim)| back[dim] = i);
        Ok(self.record(&[x], value, |_| move |g: Tensor| Ok(vec![Some(permute(&g, &back)?)])))
    }

    /// Joins along the tokens: `[batch, tokensᵢ, dim]` → `[batch, Σ tokensᵢ, dim]`.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when batch or the extents after the tokens differ.
    pub fn cat_tokens(&self, parts: &[&Var]) -> Result<Var> {
        // Joining tokens is joining the last dimension of [batch, tokens·dim].
        let tail = token_tail(parts[0].tensor(), "cat_tokens")?;
        let flat = parts.iter().map(|p| self.flatten_tokens(p, &tail, "cat_tokens")).collect::<Result<Vec<_>>>()?;
        let joined = self.cat_last(&flat.iter().collect::<Vec<_>>())?;
        let tokens = joined.tensor().last_dim() / tail.iter().product::<usize>();
        let mut shape = vec![joined.tensor().dim(0), tokens];
        shape.extend(tail);
        self.reshape(&joined, &shape)
    }

    /// Cuts along the tokens: the inverse of [`Tape::cat_tokens`].
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when the counts do not add up.
    pub fn split_tokens(&self, x: &Var, counts: &[usize]) -> Result<Vec<Var>> {
        let tail = token_tail(x.tensor(), "split_tokens")?;
        let width: usize = tail.iter().product();
        let batch = x.tensor().dim(0);
        let flat = self.flatten_tokens(x, &tail, "split_tokens")?;
        let sizes: Vec<usize> = counts.iter().map(|c| c * width).collect();
        self.split_last(&flat, &sizes)?
            .iter()
            .zip(counts)
            .map(|(part, &count)| {
                let mut shape = vec![batch, count];
                shape.extend(&tail);
                self.reshape(part, &shape)
            })
            .collect()
    }

    fn flatten_tokens(&self, x: &Var, tail: &[usize], op: &'static str) -> Result<Var> {
        let shape = x.tensor().shape();
        if token_tail(x.tensor(), op)? != tail {
            return Err(shape_error(op, "x", format!("[batch, tokens, {tail:?}]"), shape));
        }
        let batch = shape[0];
        self.reshape(x, &[batch, x.tensor().len() / batch.max(1)])
    }

    /// `[batch, channels, h, w]` → `[batch, h·w, channels]`: FLUX.2's pack.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when x does not have four dimensions.
    pub fn pack_latents(&self, x: &Var) -> Result<Var> {
        let value = pack_latents(x.tensor())?;
        let (h, w) = (x.tensor().dim(2), x.tensor().dim(3));
        Ok(self.record(&[x], value, |_| move |g: Tensor| Ok(vec![Some(unpack_latents(&g, h, w)?)])))
    }

    /// `[batch, tokens, channels]` → `[batch, channels, h, w]`: FLUX.2's unpack.
    ///
    /// # Errors
    /// `SHAPE_MISMATCH` when tokens is not h·w.
    pub fn unpack_latents(&self, x: &Var, h: usize, w: usize) -> Result<Var> {
        let value = unpack_latents(x.tensor(), h, w)?;
        Ok(self.record(&[x], value, |_| move |g: Tensor| Ok(vec![Some(pack_latents(&g)?)])))
    }
}

/// x repeated along dimensions of extent 1, forward only; shares storage when nothing is repeated.
///
/// # Errors
/// `SHAPE_MISMATCH` when x does not broadcast to `shape`.
pub fn expand(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if x.shape() == shape {
        return Ok(x.clone());
    }
    broadcast_to(x, shape)
}

/// Dimensions in another order, forward only.
fn permute(x: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let mut sorted = dims.to_vec();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..x.shape().len()) {
        return Err(shape_error(
            "permute",
            "x",
            format!("with {} dimensions, in the order {dims:?}", dims.len()),
            x.shape(),
        ));
    }
    if let Some((on, [x])) = device::operands("permute", [x])? {
        return device::made(on, composed::permute(&x, dims));
    }
    let strides = row_major(x.shape());
    let shape: Vec<usize> = dims.iter().map(|&dim| x.dim(dim)).collect();
    let walk = Walk::new(&shape, [dims.iter().map(|&dim| strides[dim]).collect()]);
    with_stored!(x.dtype(), "permute", T => Ok(Tensor::new(strided::copy(x.as_slice::<T>()?, &walk), &shape)))
}

/// `[batch, channels, h, w]` → `[batch, h·w, channels]`: FLUX.2's pack.
///
/// # Errors
/// `SHAPE_MISMATCH` when x does not have four dimensions.
pub fn pack_latents(x: &Tensor) -> Result<Tensor> {
    let &[batch, channels, h, w] = x.shape() else {
        return Err(shape_error("pack_latents", "latents", "[batch, channels, h, w]", x.shape()));
    };
    swap(x, batch, channels, h * w)?.reshape(&[batch, h * w, channels])
}

/// `[batch, h·w, channels]` → `[batch, channels, h, w]`.
///
/// # Errors
/// `SHAPE_MISMATCH` when tokens is not h·w.
pub fn unpack_latents(x: &Tensor, h: usize, w: usize) -> Result<Tensor> {
    let &[batch, tokens, channels] = x.shape() else {
        return Err(shape_error("unpack_latents", "x", "[batch, tokens, channels]", x.shape()));
    };
    if tokens != h * w {
        return Err(shape_error("unpack_latents", "x", format!("[batch, {}, channels]", h * w), x.shape()));
    }
    swap(x, batch, tokens, channels)?.reshape(&[batch, channels, h, w])
}

/// `[batch, rows, cols]` → `[batch, cols, rows]`.
fn swap(x: &Tensor, batch: usize, rows: usize, cols: usize) -> Result<Tensor> {
    if let Some((on, [x])) = device::operands("transpose", [x])? {
        return device::made(on, composed::swap(&x, batch, rows, cols));
    }
    with_stored!(x.dtype(), "transpose", T => {
        let xs = x.as_slice::<T>()?;
        let out = parallel::fill(batch * cols, rows, #[inline(always)] |i, out| {
            let (b, c) = (i / cols, i % cols);
            let column = xs[b * rows * cols..][..rows * cols].iter().skip(c).step_by(cols);
            out.iter_mut().zip(column).for_each(|(o, &x)| *o = x);
        });
        Ok(Tensor::new(out, &[batch, cols, rows]))
    })
}

/// Extents after batch and tokens.
fn token_tail(x: &Tensor, op: &'static str) -> Result<Vec<usize>> {
    match x.shape() {
        [_, _, tail @ ..] => Ok(tail.to_vec()),
        other => Err(shape_error(op, "x", "[batch, tokens, ..]", other)),
    }
}

fn cut(x: &Tensor, sizes: &[usize]) -> Result<Vec<Tensor>> {
    with_stored!(x.dtype(), "split_last", T => {
        let mut start = 0;
        sizes.iter().map(|&size| {
            let piece = cut_one::<T>(x, start, size);
            start += size;
            piece
        }).collect()
    })
}

fn cut_one<T: Stored>(x: &Tensor, start: usize, size: usize) -> Result<Tensor> {
    if let Some((on, [x])) = device::operands("split_last", [x])? {
        return device::made(on, composed::cut(&x, start, size));
    }
    let width = x.last_dim();
    let xs = x.as_slice::<T>()?;
    let rows = xs.len() / width;
    let out = assembled(rows, &[size], |i, _| Some(&xs[i * width + start..][..size]));
    let mut shape = x.shape().to_vec();
    shape.pop();
    shape.push(size);
    Ok(Tensor::new(out, &shape))
}

fn join(parts: &[Tensor]) -> Result<Tensor> {
    let lead = &parts[0].shape()[..parts[0].shape().len() - 1];
    for part in parts {
        if part.shape()[..part.shape().len() - 1] != *lead {
            return Err(shape_error("cat_last", "parts", format!("[{lead:?}, ..]"), part.shape()));
        }
    }
    if let Some((on, parts)) = device::all("cat_last", parts)? {
        return device::made(on, composed::join(&parts));
    }
    let sizes: Vec<usize> = parts.iter().map(Tensor::last_dim).collect();
    let shape = [lead, &[sizes.iter().sum()]].concat();
    with_stored!(parts[0].dtype(), "cat_last", T => {
        let slices = parts.iter().map(Tensor::as_slice::<T>).collect::<Result<Vec<_>>>()?;
        let out = assembled(lead.iter().product(), &sizes, |i, part| Some(&slices[part][i * sizes[part]..][..sizes[part]]));
        Ok(Tensor::new(out, &shape))
    })
}

/// Rows of x, `[rows, sizes[1]]`, with zeros before and behind them.
fn between_zeros(x: &Tensor, sizes: [usize; 3]) -> Result<Tensor> {
    let rows = x.dim(0);
    if !x.device().is_cpu() {
        return join(&[x.zeros_like(&[rows, sizes[0]])?, x.clone(), x.zeros_like(&[rows, sizes[2]])?]);
    }
    with_stored!(x.dtype(), "narrow", T => {
        let xs = x.as_slice::<T>()?;
        let out = assembled(rows, &sizes, |i, part| (part == 1).then(|| &xs[i * sizes[1]..][..sizes[1]]));
        Ok(Tensor::new(out, &[rows, sizes.iter().sum()]))
    })
}

/// Rows of pieces of `sizes`: `piece` gives a row's, or zeros. Of a sample's tokens there may be one row, and a long one:
/// then all threads share it.
fn assembled<'a, T: Stored>(
    rows: usize,
    sizes: &[usize],
    piece: impl Fn(usize, usize) -> Option<&'a [T]> + Sync,
) -> Vec<T> {
    const FEW: usize = 16;
    const SHARE: usize = 1 << 14;
    let width: usize = sizes.iter().sum();
    let put = |out: &mut [T], from: Option<&[T]>| match from {
        Some(from) => out.copy_from_slice(from),
        None => out.fill(T::default()),
    };
    if rows >= FEW {
        return parallel::fill(
            rows,
            width,
            #[inline(always)]
            |i, mut out| {
                for (part, &size) in sizes.iter().enumerate() {
                    let (to, rest) = out.split_at_mut(size);
                    put(to, piece(i, part));
                    out = rest;
                }
            },
        );
    }
    let mut out = unfilled(rows * width);
    let mut rest = &mut out[..];
    for (i, (part, &size)) in (0..rows).flat_map(|i| sizes.iter().enumerate().map(move |part| (i, part))) {
        let (to, behind) = rest.split_at_mut(size);
        let from = piece(i, part);
        parallel::rows(to, SHARE, |share, to| put(to, from.map(|from| &from[share * SHARE..][..to.len()])));
        rest = behind;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{between_zeros, cut_one, join};
    use crate::tensor::Tensor;

    /// Rows so long that threads share each.
    #[test]
    fn long_rows_are_cut_joined_and_padded_like_short_ones() {
        let numbers = |count: usize, first: usize| (first..first + count).map(|i| i as f32).collect::<Vec<_>>();
        let [a, b] = [(40_001, 1), (16_384, 500_000)].map(|(n, first)| Tensor::new(numbers(2 * n, first), &[2, n]));
        let joined = join(&[a.clone(), b.clone()]).unwrap();
        assert_eq!(joined.shape(), [2, 56_385]);
        let [back_a, back_b] = [(0, 40_001), (40_001, 16_384)].map(|(at, n)| cut_one::<f32>(&joined, at, n).unwrap());
        assert_eq!(back_a.as_slice::<f32>().unwrap(), a.as_slice::<f32>().unwrap());
        assert_eq!(back_b.as_slice::<f32>().unwrap(), b.as_slice::<f32>().unwrap());
        let padded = between_zeros(&a, [20_000, 40_001, 3]).unwrap();
        let [before, middle, behind] =
            [(0, 20_000), (20_000, 40_001), (60_001, 3)].map(|(at, n)| cut_one::<f32>(&padded, at, n).unwrap());
        assert_eq!(middle.as_slice::<f32>().unwrap(), a.as_slice::<f32>().unwrap());
        assert!([before, behind].iter().all(|x| x.as_slice::<f32>().unwrap().iter().all(|&x| x == 0.0)));
    }
}
