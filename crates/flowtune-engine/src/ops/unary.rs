//! Functions of one value, element by element.

use candle_core::{Result as Composed, Tensor as Twin};

use crate::device;
use crate::device::composed::sigmoid;
use crate::dtype::{Real, with_real};
use crate::error::Result;
use crate::ops::elementwise::{map, scale_tensor, zip_slices};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// x + c.
    ///
    /// # Errors
    /// When x is not floating.
    pub fn add_scalar(&self, x: &Var, c: f64) -> Result<Var> {
        if let Some(value) = self.composed(x, |x| x + c, |_, g| Ok(g.clone()))? {
            return Ok(value);
        }
        let value = with_real!(x.tensor().dtype(), "add_scalar", T => {
            let c = T::of(c);
            map::<T>(x.tensor(), |a| a + c)
        })?;
        Ok(self.record(&[x], value, |_| |g: Tensor| Ok(vec![Some(g)])))
    }

    /// x / c: rounded once, as a product with 1/c would not be.
    ///
    /// # Errors
    /// When x is not floating.
    pub fn div_scalar(&self, x: &Var, c: f64) -> Result<Var> {
        let value = divided(x.tensor(), c)?;
        Ok(self.record(&[x], value, |_| move |g: Tensor| Ok(vec![Some(divided(&g, c)?)])))
    }

    /// −x.
    ///
    /// # Errors
    /// When x is not floating.
    pub fn neg(&self, x: &Var) -> Result<Var> {
        self.scale(x, -1.0)
    }

    /// x², element by element.
    ///
    /// # Errors
    /// When x is not floating.
    pub fn square(&self, x: &Var) -> Result<Var> {
        if let Some(value) = self.composed(x, |x| x.sqr(), |x, g| (g * x)? * 2.0)? {
            return Ok(value);
        }
        with_real!(x.tensor().dtype(), "square", T => {
            self.of_input::<T>(x, |a| a * a, |a, g| g * (a + a))
        })
    }

    /// |x|; its gradient at 0 is 0.
    ///
    /// # Errors
    /// When x is not floating.
    pub fn abs(&self, x: &Var) -> Result<Var> {
        if let Some(value) = self.composed(x, |x| x.abs(), |x, g| g * x.sign()?)? {
            return Ok(value);
        }
        with_real!(x.tensor().dtype(), "abs", T => {
            let sign = |a: T| if a == T::zero() { T::zero() } else { a.signum() };
            self.of_input::<T>(x, |a| a.abs(), move |a, g| g * sign(a))
        })
    }

    /// ln x.
    ///
    /// # Errors
    /// When x is not floating.
    pub fn log(&self, x: &Var) -> Result<Var> {
        if let Some(value) = self.composed(x, |x| x.log(), |x, g| g / x)? {
            return Ok(value);
        }
        with_real!(x.tensor().dtype(), "log", T => {
            self.of_input::<T>(x, |a| a.ln(), |a, g| g / a)
        })
    }

    /// x, but at least `min` and at most `max`; the gradient is 0 outside.
    ///
    /// # Errors
    /// When x is not floating.
    pub fn clamp(&self, x: &Var, min: f64, max: f64) -> Result<Var> {
        let inside = move |x: &Twin| -> Composed<Twin> { (x.ge(min)? * x.le(max)?)?.to_dtype(x.dtype()) };
        if let Some(value) = self.composed(x, |x| x.clamp(min, max), move |x, g| g * inside(x)?)? {
            return Ok(value);
        }
        with_real!(x.tensor().dtype(), "clamp", T => {
            let (min, max) = (T::of(min), T::of(max));
            let inside = move |a: T| a >= min && a <= max;
            self.of_input::<T>(x, |a| a.max(min).min(max), move |a, g| if inside(a) { g } else { T::zero() })
        })
    }

    /// x to a constant power.
    ///
    /// # Errors
    /// When x is not floating.
    pub fn pow(&self, x: &Var, exponent: f64) -> Result<Var> {
        let slope = move |x: &Twin| -> Composed<Twin> { x.powf(exponent - 1.0)? * exponent };
        if let Some(value) = self.composed(x, |x| x.powf(exponent), move |x, g| g * slope(x)?)? {
            return Ok(value);
        }
        with_real!(x.tensor().dtype(), "pow", T => {
            let p = T::of(exponent);
            self.of_input::<T>(x, |a| a.powf(p), move |a, g| g * p * a.powf(p - T::one()))
        })
    }

    /// √x.
    ///
    /// # Errors
    /// When x is not floating.
    pub fn sqrt(&self, x: &Var) -> Result<Var> {
        if let Some(value) = self.composed(x, |x| x.sqrt(), |x, g| (g / x.sqrt()?)? * 0.5)? {
            return Ok(value);
        }
        with_real!(x.tensor().dtype(), "sqrt", T => {
            self.of_output::<T>(x, |a| a.sqrt(), |y, g| g / (y + y))
        })
    }

    /// eˣ.
    ///
    /// # Errors
    /// When x is not floating.
    pub fn exp(&self, x: &Var) -> Result<Var> {
        if let Some(value) = self.composed(x, |x| x.exp(), |x, g| g * x.exp()?)? {
            return Ok(value);
        }
        with_real!(x.tensor().dtype(), "exp", T => {
            self.of_output::<T>(x, |a| a.exp(), |y, g| g * y)
        })
    }

    /// tanh x.
    ///
    /// # Errors
    /// When x is not floating.
    pub fn tanh(&self, x: &Var) -> Result<Var> {
        if let Some(value) = self.composed(x, |x| x.tanh(), |x, g| g * (1.0 - x.tanh()?.sqr()?)?)? {
            return Ok(value);
        }
        with_real!(x.tensor().dtype(), "tanh", T => {
            self.of_output::<T>(x, |a| a.tanh(), |y, g| g * (T::one() - y * y))
        })
    }

    /// 1 / (1 + e⁻ˣ).
    ///
    /// # Errors
    /// When x is not floating.
    pub fn sigmoid(&self, x: &Var) -> Result<Var> {
        if let Some(value) = self.composed(x, sigmoid, |x, g| {
            let s = sigmoid(x)?;
            (g * &s)? * (1.0 - s)?
        })? {
            return Ok(value);
        }
        with_real!(x.tensor().dtype(), "sigmoid", T => {
            self.of_output::<T>(x, |a| T::one() / (T::one() + (-a).exp()), |y, g| g * y * (T::one() - y))
        })
    }

    /// factor · x.
    ///
    /// # Errors
    /// When x is not floating.
    pub fn scale(&self, x: &Var, factor: f64) -> Result<Var> {
        let value = scale_tensor(x.tensor(), factor)?;
        Ok(self.record(&[x], value, |_| move |g: Tensor| Ok(vec![Some(scale_tensor(&g, factor)?)])))
    }

    /// f(x) of a value on a device, whose backward is made of x and the gradient; nothing where x is the CPU's.
    fn composed(
        &self,
        x: &Var,
        f: impl FnOnce(&Twin) -> Composed<Twin>,
        backward: impl FnOnce(&Twin, &Twin) -> Composed<Twin> + Send + 'static,
    ) -> Result<Option<Var>> {
        let Some((on, [twin])) = device::operands("a function", [x.tensor()])? else { return Ok(None) };
        let value = device::made(on, f(&twin))?;
        Ok(Some(self.record(&[x], value, |_| {
            move |g: Tensor| {
                let Some((_, [g])) = device::operands("a function", [&g])? else { unreachable!("where the value is") };
                Ok(vec![Some(device::made(on, backward(&twin, &g))?)])
            }
        })))
    }

    /// f(x), whose backward is made of x and the gradient.
    fn of_input<T: Real>(
        &self,
        x: &Var,
        f: impl Fn(T) -> T + Sync,
        backward: impl Fn(T, T) -> T + Sync + Send + 'static,
    ) -> Result<Var> {
        let saved = x.tensor().clone();
        let value = map::<T>(&saved, f)?;
        Ok(self.record(&[x], value, |_| move |g: Tensor| Ok(vec![Some(zip_slices::<T>(&saved, &g, backward)?)])))
    }

    /// f(x), whose backward is made of f(x) and the gradient.
    fn of_output<T: Real>(
        &self,
        x: &Var,
        f: impl Fn(T) -> T + Sync,
        backward: impl Fn(T, T) -> T + Sync + Send + 'static,
    ) -> Result<Var> {
        let value = map::<T>(x.tensor(), f)?;
        let saved = value.clone();
        Ok(self.record(&[x], value, |_| move |g: Tensor| Ok(vec![Some(zip_slices::<T>(&saved, &g, backward)?)])))
    }
}

fn divided(x: &Tensor, c: f64) -> Result<Tensor> {
    if let Some((on, [x])) = device::operands("div_scalar", [x])? {
        return device::made(on, x / c);
    }
    with_real!(x.dtype(), "div_scalar", T => {
        let c = T::of(c);
        map::<T>(x, |a| a / c)
    })
}
