//! Products of matrices in a device's memory: one of each group (head, sample), wherever in their buffers they lie.
//!
//! Nothing is moved for a product. The heads of `[batch, tokens, heads, dim]` are matrices whose rows are far apart, and
//! a transpose is another way to read.

use super::buffer::{Buffer, Value, View, ViewMut};
use super::launch::Launcher;
use crate::error::{Error, Result, shape_error};

/// Where the matrices of a buffer lie: of each group one, `rows` × `cols`, elements of a row adjacent.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// First element of the first group.
    pub start: usize,
    /// Rows of each matrix.
    pub rows: usize,
    /// Columns of each matrix.
    pub cols: usize,
    /// Elements from one row to the next.
    pub step: usize,
    /// Elements from one group's matrix to the next.
    pub group: usize,
    /// Whether the transposes are meant.
    pub transposed: bool,
}

impl Layout {
    /// One matrix that fills its buffer.
    pub fn whole(rows: usize, cols: usize) -> Self {
        Self { start: 0, rows, cols, step: cols, group: 0, transposed: false }
    }

    /// The transposes.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Rows and columns as the product sees them.
    fn extents(self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    /// Elements up to the last one of the last group.
    fn end(self, groups: usize) -> Option<usize> {
        let last = groups.checked_sub(1)?.checked_mul(self.group)?.checked_add(self.start)?;
        last.checked_add(self.rows.checked_sub(1)?.checked_mul(self.step)?)?.checked_add(self.cols)
    }
}

/// A type that a product reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// float32.
    F32,
    /// bfloat16.
    Bf16,
}

/// What one side of a product is, for a [`Launcher`].
#[derive(Debug, Clone, Copy)]
pub struct Operand {
    /// Address of the buffer's first element.
    pub address: u64,
    /// Type of its elements.
    pub kind: Kind,
    /// Where in it the matrices lie.
    pub layout: Layout,
}

/// c = scale·a·b, or c += scale·a·b, summed in float32: checked, for a [`Launcher`].
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// `[m, k]` of each group.
    pub a: Operand,
    /// `[k, n]` of each group, of the type of a.
    pub b: Operand,
    /// `[m, n]` of each group, not transposed.
    pub c: Operand,
    /// How many groups.
    pub groups: usize,
    /// Factor of the product.
    pub scale: f32,
    /// Whether what is in c stays and is added to.
    pub add: bool,
}

impl Product {
    /// m, k and n.
    pub fn extents(&self) -> [usize; 3] {
        let ((m, k), (_, n)) = (self.a.layout.extents(), self.b.layout.extents());
        [m, k, n]
    }
}

/// What a product does with its sums.
#[derive(Debug, Clone, Copy)]
pub struct Factor {
    /// Factor of the product.
    pub scale: f32,
    /// Whether what is in c stays and is added to.
    pub add: bool,
}

impl Factor {
    /// c = a·b.
    pub const ONE: Self = Self { scale: 1.0, add: false };
    /// c += a·b.
    pub const ADD: Self = Self { scale: 1.0, add: true };

    /// c = scale·a·b.
    pub fn scaled(scale: f32) -> Self {
        Self { scale, add: false }
    }
}

/// c (+)= scale·a·b for each of `groups`: sums in float32, rounded once to the type of c.
///
/// # Errors
/// `SHAPE_MISMATCH` when the extents do not fit each other or the buffers; `INTERNAL` for bfloat16 from float32; what the
/// device says.
pub fn product<L: Launcher, T: Value, O: Value>(
    on: &L,
    (a, a_layout): (&View<T>, Layout),
    (b, b_layout): (&View<T>, Layout),
    (c, c_layout): (&mut ViewMut<O>, Layout),
    groups: usize,
    Factor { scale, add }: Factor,
) -> Result<()> {
    let ((m, k), (inner, n)) = (a_layout.extents(), b_layout.extents());
    if inner != k || c_layout.extents() != (m, n) || c_layout.transposed {
        let expected = format!("[{m}, {k}] x [{k}, {n}] = [{m}, {n}]");
        return Err(shape_error("product", "extents", expected, &[inner, c_layout.rows, c_layout.cols]));
    }
    if (T::OPERAND, O::OPERAND) == (Kind::F32, Kind::Bf16) {
        let reason = "float32 is not multiplied into bfloat16".to_owned();
        return Err(Error::Launch { kernel: "product".to_owned(), reason });
    }
    if groups == 0 || m == 0 || n == 0 {
        return Ok(());
    }
    let operand = |argument, buffer: &dyn Buffer, layout: Layout, kind| {
        let fits = layout.cols <= layout.step && layout.end(groups).is_some_and(|end| end <= buffer.len());
        match fits.then(|| buffer.address()) {
            Some(address) => Ok(Operand { address, kind, layout }),
            None => Err(shape_error("product", argument, format!("for {groups} of {layout:?}"), &[buffer.len()])),
        }
    };
    let product = Product {
        a: operand("a", a, a_layout, T::OPERAND)?,
        b: operand("b", b, b_layout, T::OPERAND)?,
        c: operand("c", c, c_layout, O::OPERAND)?,
        groups,
        scale,
        add,
    };
    // SAFETY: everything is within its buffer, as just checked, and c is nobody else's.
    unsafe { on.product(&product) }
}

/// What cuBLAS is asked for. It counts by columns, and reads a matrix of rows as its transpose: so it is asked for cᵀ = bᵀ·aᵀ,
/// which it writes as the rows of c.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnMajor {
    /// Whether bᵀ's and aᵀ's matrices are transposed once more.
    pub transposed: [bool; 2],
    /// n, m and k.
    pub extents: [i32; 3],
    /// Elements between columns, of b, a and c.
    pub steps: [i32; 3],
    /// Elements between groups, of b, a and c.
    pub groups: [i64; 3],
    /// How many groups.
    pub count: i32,
}

impl ColumnMajor {
    /// Of a product.
    ///
    /// # Errors
    /// `INTERNAL` when an extent has more than 31 bits.
    pub fn of(product: &Product) -> Result<Self> {
        let ([m, k, n], layouts) = (product.extents(), [product.b.layout, product.a.layout, product.c.layout]);
        let small = |x: usize| i32::try_from(x).map_err(|_| too_large(product.extents()));
        let large = |x: usize| i64::try_from(x).map_err(|_| too_large(product.extents()));
        Ok(Self {
            transposed: [layouts[0].transposed, layouts[1].transposed],
            extents: [small(n)?, small(m)?, small(k)?],
            steps: [small(layouts[0].step)?, small(layouts[1].step)?, small(layouts[2].step)?],
            groups: [large(layouts[0].group)?, large(layouts[1].group)?, large(layouts[2].group)?],
            count: small(product.groups)?,
        })
    }
}

fn too_large(extents: [usize; 3]) -> Error {
    Error::Launch { kernel: "product".to_owned(), reason: format!("{extents:?} is too large") }
}
