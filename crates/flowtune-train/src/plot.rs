//! `plot.svg`: the training loss, faint and smoothed, and the held-out loss, on the same axes.

use std::path::Path;

use flowtune_data::atomic;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::error::{Error, Result};
use crate::event::Event;

const SIZE: (u32, u32) = (900, 500);
/// Blue and orange of the Okabe–Ito palette: told apart with any colour vision.
pub(crate) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(crate) const ORANGE: RGBColor = RGBColor(213, 94, 0);

/// A point: step and loss.
type Point = (f64, f64);

/// Draws the losses in `events` to an SVG file, atomically. Its text needs no fonts but the viewer's.
///
/// # Errors
/// `IO`; `INTERNAL` when the drawing fails.
pub fn write_plot(events: &[Event], path: &Path) -> Result<()> {
    Ok(atomic::write_file(path, draw_plot(events)?.as_bytes())?)
}

/// The SVG of [`write_plot`].
///
/// # Errors
/// `INTERNAL` when the drawing fails.
pub fn draw_plot(events: &[Event]) -> Result<String> {
    let curves = Curves::of(events);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        curves.draw(&area).map_err(|e| Error::Internal(format!("drawing the plot: {e}")))?;
    }
    Ok(svg)
}

struct Curves {
    training: Vec<Point>,
    smoothed: Vec<Point>,
    held_out: Vec<Point>,
}

impl Curves {
    fn of(events: &[Event]) -> Self {
        let mut training = Vec::new();
        let mut held_out = Vec::new();
        for event in events {
            match *event {
                Event::Step { step, loss, .. } if loss.is_finite() => training.push((step as f64, loss)),
                Event::Evaluation { step, loss, .. } if loss.is_finite() => held_out.push((step as f64, loss)),
                _ => {}
            }
        }
        let smoothed = smooth(&training);
        Self { training, smoothed, held_out }
    }

    fn draw(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Box<dyn std::error::Error + '_>> {
        area.fill(&WHITE)?;
        let (steps, losses) = self.ranges();
        let mut chart = ChartBuilder::on(area)
            .caption("Loss", ("sans-serif", 24))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..steps, losses)?;
        chart
            .configure_mesh()
            .x_desc("step")
            .y_desc("mean squared error of the velocity")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.3}"))
            .axis_desc_style(("sans-serif", 15))
            .label_style(("sans-serif", 13))
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12))
            .draw()?;
        chart
            .draw_series(LineSeries::new(self.training.iter().copied(), BLUE.mix(0.25)))?
            .label("training, each step")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], BLUE.mix(0.25)));
        chart
            .draw_series(LineSeries::new(self.smoothed.iter().copied(), BLUE.stroke_width(2)))?
            .label("training, smoothed")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], BLUE.stroke_width(2)));
        if !self.held_out.is_empty() {
            let style = ORANGE.filled();
            chart
                .draw_series(LineSeries::new(self.held_out.iter().copied(), style.stroke_width(2)).point_size(4))?
                .label("held-out images, fixed noise")
                .legend(move |(x, y)| Circle::new((x + 10, y), 4, style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 14))
            .draw()?;
        area.present()?;
        Ok(())
    }

    /// Last step, and losses with a margin. Single steps far above the rest leave the picture, so that the course of
    /// the others can be seen.
    fn ranges(&self) -> (f64, std::ops::Range<f64>) {
        let last = self.training.iter().chain(&self.held_out).map(|p| p.0).fold(1.0, f64::max);
        let mut losses: Vec<f64> = self.training.iter().map(|p| p.1).collect();
        losses.sort_by(f64::total_cmp);
        losses.truncate((losses.len() as f64 * 0.99).ceil() as usize);
        losses.extend(self.smoothed.iter().chain(&self.held_out).map(|p| p.1));
        let low = losses.iter().copied().fold(f64::INFINITY, f64::min);
        let high = losses.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if low > high {
            return (last, 0.0..1.0);
        }
        let margin = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-6);
        (last, (low - margin).max(0.0).min(low)..high + margin)
    }
}

/// Mean over a window of a twentieth of the run around each step.
fn smooth(points: &[Point]) -> Vec<Point> {
    let half = (points.len() / 40).max(1);
    (0..points.len())
        .map(|i| {
            let window = &points[i.saturating_sub(half)..(i + half + 1).min(points.len())];
            (points[i].0, window.iter().map(|p| p.1).sum::<f64>() / window.len() as f64)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Vec<Event> {
        let mut events = Vec::new();
        for step in 0..=100u64 {
            if step % 50 == 0 {
                events.push(Event::Evaluation { step, loss: 1.0 - step as f64 * 0.004, per_sigma: vec![] });
            } else {
                let loss = 1.0 - step as f64 * 0.004 + 0.2 * (step as f64 * 2.4).sin();
                let (grad_norm, lr, seconds_per_step, sigma_mean) = (1.0, 1e-4, 0.1, 0.5);
                events.push(Event::Step { step, total_steps: 100, loss, grad_norm, lr, seconds_per_step, sigma_mean });
            }
        }
        events
    }

    #[test]
    fn both_losses_are_drawn_and_named() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("plot.svg");
        write_plot(&run(), &path).unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["training, smoothed", "held-out images", "step", "mean squared error"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.contains("#0072B2") && svg.contains("#D55E00"));
        // The held-out loss has three points, and the legend one more.
        assert_eq!(svg.matches("<circle").count(), 4);
    }

    #[test]
    fn a_run_without_steps_or_with_one_still_has_a_plot() {
        for events in [vec![], run()[..1].to_vec(), run()[..2].to_vec()] {
            assert!(draw_plot(&events).unwrap().contains("</svg>"));
        }
    }

    #[test]
    fn smoothing_keeps_a_line_and_flattens_noise() {
        let line: Vec<Point> = (0..200).map(|i| (f64::from(i), 2.0)).collect();
        assert!(smooth(&line).iter().all(|p| p.1 == 2.0));
        let noise: Vec<Point> = (0..200).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        assert!(smooth(&noise).iter().all(|p| (p.1 - 0.5).abs() < 0.2));
    }
}
