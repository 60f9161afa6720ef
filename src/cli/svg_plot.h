// Small plots as SVG, for anyone's browser.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace millrace::cli {

/// One line, or one colour of bars: a value for each place on the x axis; what is not finite is
/// left out.
struct PlotSeries {
  std::string label;
  std::vector<double> values;
};

/// One pair of axes. The x axis has a place for each of `places`; the y axis starts at zero.
struct PlotPanel {
  enum class Form { bars, lines };
  std::string title;
  std::string x_label;
  std::string y_label;  // with its unit
  Form form = Form::bars;
  std::vector<std::string> places;
  std::vector<PlotSeries> series;
};

/// A document with the panels side by side. Text is escaped; control characters become '?'.
[[nodiscard]] std::string svg_plot(std::string_view title, const std::vector<PlotPanel>& panels);

/// The smallest of 1, 2, 2.5 and 5 times a power of ten that cuts [0, top] into at most `most`
/// steps.
[[nodiscard]] double tick_step(double top, int most) noexcept;

}  // namespace millrace::cli
