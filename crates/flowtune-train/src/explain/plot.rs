//! A picture of a recipe's noise levels.

use plotters::coord::Shift as Whole;
use plotters::prelude::*;

use super::Explanation;
use crate::error::{Error, Result};
use crate::plot::{BLUE, ORANGE};

const SIZE: (u32, u32) = (900, 420);

/// SVG of the density of σ per bucket, and the weight of the loss over it. Its text needs no fonts but the viewer's.
///
/// # Errors
/// `INTERNAL` when the drawing fails.
pub fn draw_explanation(explanation: &Explanation) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw(explanation, &area).map_err(|e| Error::Internal(format!("drawing the noise levels: {e}")))?;
    }
    Ok(svg)
}

fn draw(
    explanation: &Explanation,
    area: &DrawingArea<SVGBackend<'_>, Whole>,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let drawn = |e: DrawingAreaErrorKind<_>| -> Box<dyn std::error::Error> { format!("{e}").into() };
    area.fill(&WHITE).map_err(drawn)?;
    let densities = explanation.buckets.iter().flat_map(|bucket| bucket.density.iter().copied());
    let top = densities.fold(1.0, f64::max) * 1.3;
    // Room for the legend.
    let heaviest = explanation.weights.iter().map(|w| w[1]).fold(1.0, f64::max) * 1.3;
    let mut chart = ChartBuilder::on(area)
        .caption("Noise levels in training", ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .right_y_label_area_size(56)
        .build_cartesian_2d(0.0..1.0, 0.0..top)
        .map_err(drawn)?
        .set_secondary_coord(0.0..1.0, 0.0..heaviest);
    chart
        .configure_mesh()
        .x_desc("σ: 0 is the image, 1 is noise")
        .y_desc("density")
        .axis_desc_style(("sans-serif", 15))
        .label_style(("sans-serif", 13))
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.12))
        .draw()
        .map_err(drawn)?;
    chart
        .configure_secondary_axes()
        .y_desc("weight of the loss")
        .axis_desc_style(("sans-serif", 15))
        .label_style(("sans-serif", 13))
        .draw()
        .map_err(drawn)?;
    for (i, bucket) in explanation.buckets.iter().enumerate() {
        let shade = BLUE.mix(1.0 / (i + 1) as f64);
        let width = 1.0 / bucket.density.len() as f64;
        let middle = bucket.density.iter().enumerate().map(|(i, &d)| ((i as f64 + 0.5) * width, d));
        let shift = bucket.shift.map_or("no shift".to_owned(), |shift| format!("shift {shift:.2}"));
        let label = format!("σ at {}×{} ({shift})", bucket.width, bucket.height);
        chart
            .draw_series(AreaSeries::new(middle, 0.0, shade.mix(0.25)).border_style(shade.stroke_width(2)))
            .map_err(drawn)?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], shade.stroke_width(2)));
    }
    let weights = explanation.weights.iter().map(|&[sigma, weight]| (sigma, weight));
    chart
        .draw_secondary_series(LineSeries::new(weights, ORANGE.stroke_width(2)))
        .map_err(drawn)?
        .label("weight of the loss")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], ORANGE.stroke_width(2)));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()
        .map_err(drawn)?;
    area.present().map_err(drawn)?;
    Ok(())
}
