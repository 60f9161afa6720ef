#include "cli/svg_plot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace millrace::cli {
namespace {

constexpr double kPanelWidth = 460;
constexpr double kPanelHeight = 320;
constexpr double kLeft = 76;  // of the axes within a panel
constexpr double kRight = 20;
constexpr double kTop = 44;
constexpr double kBottom = 84;
constexpr double kTitleHeight = 36;
constexpr int kMostTicks = 6;

// Distinguishable also by those who see red and green alike (the Okabe-Ito palette).
constexpr std::array<std::string_view, 7> kColours = {"#0072b2", "#e69f00", "#009e73", "#cc79a7",
                                                      "#56b4e9", "#d55e00", "#666666"};

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
    }
  }
  return out;
}

std::string number(double value, const char* format = "%.1f") {
  char text[48];
  const int length = std::snprintf(text, sizeof text, format, value);
  return std::string(text, static_cast<std::size_t>(std::clamp(length, 0, 47)));
}

// "250", "12.5k", "1.2M".
std::string tick_text(double value) {
  if (value >= 1e6) return number(value / 1e6, "%.4g") + "M";
  if (value >= 1e4) return number(value / 1e3, "%.4g") + "k";
  return number(value, "%.4g");
}

std::string text_at(double x, double y, std::string_view anchor, std::string_view style,
                    std::string_view text) {
  return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" +
         std::string(anchor) + "\" " + std::string(style) + ">" + escaped(text) + "</text>\n";
}

std::string line_between(double x1, double y1, double x2, double y2, std::string_view colour) {
  return "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) +
         "\" y2=\"" + number(y2) + "\" stroke=\"" + std::string(colour) + "\"/>\n";
}

class PanelDrawing {
 public:
  explicit PanelDrawing(const PlotPanel& panel) : panel_(panel) {
    double highest = 0;
    for (const PlotSeries& series : panel.series) {
      for (const double value : series.values) {
        if (std::isfinite(value)) highest = std::max(highest, value);
      }
    }
    step_ = tick_step(highest, kMostTicks);
    top_ = std::max(std::ceil(highest / step_ - 1e-9), 1.0) * step_;
  }

  std::string text() const { return axes() + marks() + legend(); }

 private:
  static constexpr double kWidth = kPanelWidth - kLeft - kRight;
  static constexpr double kHeight = kPanelHeight - kTop - kBottom;

  double y_of(double value) const {
    return kTop + kHeight * (1 - std::clamp(value / top_, 0.0, 1.0));
  }
  double place_width() const {
    return kWidth / static_cast<double>(std::max<std::size_t>(panel_.places.size(), 1));
  }
  double x_of(std::size_t place) const {
    return kLeft + place_width() * (static_cast<double>(place) + 0.5);
  }

  std::string axes() const {
    std::string out =
        text_at(kLeft + kWidth / 2, 22, "middle", "font-weight=\"bold\"", panel_.title);
    for (int i = 0; i * step_ <= top_ * 1.0001; ++i) {
      const double y = y_of(i * step_);
      out += line_between(kLeft, y, kLeft + kWidth, y, i == 0 ? "#333333" : "#dddddd");
      out += text_at(kLeft - 8, y + 4, "end", "font-size=\"11\"", tick_text(i * step_));
    }
    for (std::size_t i = 0; i < panel_.places.size(); ++i) {
      out += text_at(x_of(i), kTop + kHeight + 18, "middle", "font-size=\"11\"", panel_.places[i]);
    }
    out += text_at(kLeft + kWidth / 2, kTop + kHeight + 38, "middle", "font-size=\"12\"",
                   panel_.x_label);
    const double middle = kTop + kHeight / 2;
    out += text_at(18, middle, "middle",
                   "font-size=\"12\" transform=\"rotate(-90 18 " + number(middle) + ")\"",
                   panel_.y_label);
    return out;
  }

  std::string marks() const {
    std::string out;
    for (std::size_t s = 0; s < panel_.series.size(); ++s) {
      out += panel_.form == PlotPanel::Form::bars ? bars_of(s) : line_of(s);
    }
    return out;
  }

  std::string bars_of(std::size_t s) const {
    const double group = place_width() * 0.8;
    const double width = group / static_cast<double>(panel_.series.size());
    std::string out;
    for (std::size_t i = 0; i < panel_.places.size() && i < panel_.series[s].values.size(); ++i) {
      const double value = panel_.series[s].values[i];
      if (!std::isfinite(value)) continue;
      const double x = x_of(i) - group / 2 + width * static_cast<double>(s);
      out += "<rect x=\"" + number(x) + "\" y=\"" + number(y_of(value)) + "\" width=\"" +
             number(width * 0.92) + "\" height=\"" + number(kTop + kHeight - y_of(value)) +
             "\" fill=\"" + std::string(colour_of(s)) + "\">" + hint(s, i) + "</rect>\n";
    }
    return out;
  }

  std::string line_of(std::size_t s) const {
    std::string points;
    std::string dots;
    for (std::size_t i = 0; i < panel_.places.size() && i < panel_.series[s].values.size(); ++i) {
      const double value = panel_.series[s].values[i];
      if (!std::isfinite(value)) continue;
      points += (points.empty() ? "" : " ") + number(x_of(i)) + "," + number(y_of(value));
      dots += "<circle cx=\"" + number(x_of(i)) + "\" cy=\"" + number(y_of(value)) +
              "\" r=\"4\" fill=\"" + std::string(colour_of(s)) + "\">" + hint(s, i) + "</circle>\n";
    }
    if (points.empty()) return {};
    return "<polyline points=\"" + points + "\" fill=\"none\" stroke-width=\"2\" stroke=\"" +
           std::string(colour_of(s)) + "\"/>\n" + dots;
  }

  // Shown by browsers when the pointer rests on a mark.
  std::string hint(std::size_t s, std::size_t place) const {
    return "<title>" +
           escaped(panel_.series[s].label + ", " + panel_.x_label + " " + panel_.places[place] +
                   ": " + number(panel_.series[s].values[place], "%.6g")) +
           "</title>";
  }

  std::string legend() const {
    const double each =
        kWidth / static_cast<double>(std::max<std::size_t>(panel_.series.size(), 1));
    std::string out;
    for (std::size_t s = 0; s < panel_.series.size(); ++s) {
      const double x = kLeft + each * static_cast<double>(s);
      out += "<rect x=\"" + number(x) + "\" y=\"" + number(kPanelHeight - 24) +
             "\" width=\"12\" height=\"12\" fill=\"" + std::string(colour_of(s)) + "\"/>\n";
      out +=
          text_at(x + 17, kPanelHeight - 14, "start", "font-size=\"11\"", panel_.series[s].label);
    }
    return out;
  }

  static std::string_view colour_of(std::size_t s) { return kColours[s % kColours.size()]; }

  const PlotPanel& panel_;
  double step_ = 1;
  double top_ = 1;
};

}  // namespace

double tick_step(double top, int most) noexcept {
  if (!(top > 0) || !std::isfinite(top) || most < 1) return 1;
  const double least = top / most;
  const double power = std::pow(10, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 2.5, 5.0}) {
    if (factor * power >= least * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

std::string svg_plot(std::string_view title, const std::vector<PlotPanel>& panels) {
  const double width = kPanelWidth * static_cast<double>(std::max<std::size_t>(panels.size(), 1));
  const double height = kPanelHeight + kTitleHeight;
  std::string out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
  out += "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(width, "%.0f") + " " +
         number(height, "%.0f") + "\" width=\"" + number(width, "%.0f") + "\" height=\"" +
         number(height, "%.0f") +
         "\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222222\">\n";
  out += "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n";
  out += text_at(width / 2, 24, "middle", "font-size=\"15\" font-weight=\"bold\"", title);
  for (std::size_t i = 0; i < panels.size(); ++i) {
    out += "<g transform=\"translate(" + number(kPanelWidth * static_cast<double>(i)) + " " +
           number(kTitleHeight) + ")\">\n";
    out += PanelDrawing(panels[i]).text() + "</g>\n";
  }
  return out + "</svg>\n";
}

}  // namespace millrace::cli
