#include "cli/svg_plot.h"

#include <cmath>

#include <gtest/gtest.h>

namespace millrace::cli {
namespace {

int count_of(std::string_view needle, std::string_view text) {
  int count = 0;
  for (std::size_t at = text.find(needle); at != std::string_view::npos;
       at = text.find(needle, at + 1))
    ++count;
  return count;
}

PlotPanel panel(PlotPanel::Form form) {
  return {"Throughput", "batch",          "items/s",
          form,         {"1", "8", "32"}, {{"1 lane", {10, 40, 90}}, {"2 lanes", {20, 80, 170}}}};
}

TEST(TickStep, IsRoundAndCutsTheAxisIntoFewSteps) {
  EXPECT_DOUBLE_EQ(tick_step(90, 6), 20);
  EXPECT_DOUBLE_EQ(tick_step(100, 5), 20);
  EXPECT_DOUBLE_EQ(tick_step(0.012, 6), 0.002);
  EXPECT_DOUBLE_EQ(tick_step(15, 6), 2.5);
  EXPECT_DOUBLE_EQ(tick_step(55, 6), 10);
  EXPECT_DOUBLE_EQ(tick_step(0, 6), 1);
  EXPECT_DOUBLE_EQ(tick_step(NAN, 6), 1);
}

TEST(SvgPlot, HasABarForEachValueAndALabelForEachAxis) {
  const std::string svg = svg_plot("digits", {panel(PlotPanel::Form::bars)});
  EXPECT_EQ(count_of("</rect>", svg), 6);
  for (const char* text :
       {">digits<", ">Throughput<", ">batch<", ">items/s<", ">32<", ">2 lanes<"}) {
    EXPECT_NE(svg.find(text), std::string::npos) << text;
  }
}

TEST(SvgPlot, HasALineForEachSeriesAndADotForEachValue) {
  const std::string svg = svg_plot("digits", {panel(PlotPanel::Form::lines)});
  EXPECT_EQ(count_of("<polyline", svg), 2);
  EXPECT_EQ(count_of("<circle", svg), 6);
}

TEST(SvgPlot, TheHighestBarIsAsHighAsItsShareOfTheAxis) {
  PlotPanel one = panel(PlotPanel::Form::bars);
  one.places = {"1", "2"};
  one.series = {{"a", {100, 50}}};
  const std::string svg = svg_plot("", {one});
  // The axes are 320 - 44 - 84 = 192 units high, and 100 is a tick, so it is the top.
  EXPECT_NE(svg.find("height=\"192.0\" fill"), std::string::npos) << svg;
  EXPECT_NE(svg.find("height=\"96.0\" fill"), std::string::npos) << svg;
}

TEST(SvgPlot, LeavesOutWhatIsNoNumber) {
  PlotPanel holes = panel(PlotPanel::Form::bars);
  holes.series[0].values = {NAN, INFINITY, 1};
  EXPECT_EQ(count_of("</rect>", svg_plot("", {holes})), 4);
}

TEST(SvgPlot, EscapesText) {
  PlotPanel odd = panel(PlotPanel::Form::bars);
  odd.title = "a<b & \"c\"\n";
  const std::string svg = svg_plot("<script>", {odd});
  EXPECT_EQ(svg.find("<script>"), std::string::npos);
  EXPECT_NE(svg.find("a&lt;b &amp; &quot;c&quot;?"), std::string::npos);
}

TEST(SvgPlot, WithoutPanelsOrValuesIsStillADocument) {
  EXPECT_NE(svg_plot("x", {}).find("</svg>"), std::string::npos);
  EXPECT_NE(svg_plot("x", {PlotPanel{}}).find("</svg>"), std::string::npos);
}

}  // namespace
}  // namespace millrace::cli
