//! Token embedding, forward only.

use crate::cpu::parallel;
use crate::device::{self, Device, composed};
use crate::dtype::{Stored, with_stored};
use crate::error::{Error, Result, shape_error};
use crate::tensor::Tensor;

/// Rows of `table` `[vocabulary, dim]` by int64 `ids` `[..]` → `[.., dim]`, in the type of the table.
///
/// # Errors
/// `SHAPE_MISMATCH` when an id has no row or the types do not fit.
pub fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let &[rows, dim] = table.shape() else {
        return Err(shape_error("embedding", "table", "[vocabulary, dim]", table.shape()));
    };
    let here = ids.to_device(&Device::cpu())?;
    let indices = here.as_slice::<i64>()?;
    if let Some(id) = indices.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= rows)) {
        return Err(shape_error("embedding", "table", format!("with a row for id {id}"), table.shape()));
    }
    if let Some((on, [table])) = device::operands("embedding", [table])? {
        let ids = here.to_device(&Device::of(&table, on))?.on_device()?.ok_or(Error::Device { op: "embedding" })?;
        return device::made(on, composed::embedding(&ids.twin, &table));
    }
    let mut shape = ids.shape().to_vec();
    shape.push(dim);
    with_stored!(table.dtype(), "embedding", T => {
        Ok(Tensor::new(gather(indices, table.as_slice::<T>()?, dim), &shape))
    })
}

fn gather<T: Stored>(ids: &[i64], table: &[T], dim: usize) -> Vec<T> {
    parallel::fill(
        ids.len(),
        dim,
        #[inline(always)]
        |i, out| out.copy_from_slice(&table[ids[i] as usize * dim..][..dim]),
    )
}

#[cfg(test)]
mod tests {
    use super::embedding;
    use crate::tensor::Tensor;

    #[test]
    fn gathers_rows_and_refuses_ids_outside() {
        let table = Tensor::from_vec((0..12).map(f64::from).collect(), &[4, 3]).unwrap();
        let ids = |v: Vec<i64>| Tensor::from_vec(v, &[1, 2]).unwrap();
        let got = embedding(&ids(vec![3, 0]), &table).unwrap();
        assert_eq!(got.shape(), [1, 2, 3]);
        assert_eq!(got.as_slice::<f64>().unwrap(), [9., 10., 11., 0., 1., 2.]);
        for bad in [-1, 4] {
            let error = embedding(&ids(vec![0, bad]), &table).unwrap_err();
            assert!(error.to_string().contains(&bad.to_string()), "{error}");
        }
    }
}
