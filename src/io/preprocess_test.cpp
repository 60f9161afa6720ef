#include "io/preprocess.h"

#include <gtest/gtest.h>

#include "io/elements.h"

namespace millrace {
namespace {

TensorInfo input(DataType type, const Shape& shape, int batch_axis = 0) {
  return {"images", type, shape, batch_axis};
}

ImagePreprocess stated(std::string_view text) {
  const Result<ImagePreprocess> result = parse_preprocess_text(text);
  EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message);
  return result.ok() ? *result : ImagePreprocess{};
}

PreprocessPlan planned(const ImagePreprocess& what, const TensorInfo& info) {
  const Result<PreprocessPlan> plan = plan_preprocess(what, info);
  EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().message);
  return plan.ok() ? *plan : PreprocessPlan{};
}

std::string plan_refusal(std::string_view text, const TensorInfo& info) {
  const Result<PreprocessPlan> plan = plan_preprocess(stated(text), info);
  return plan.ok() ? "accepted" : plan.error().message;
}

std::vector<double> values(const Result<Tensor>& tensor) {
  EXPECT_TRUE(tensor.ok());
  std::vector<double> out;
  for (std::int64_t i = 0; i < *element_count(tensor->shape()); ++i)
    out.push_back(element_value(tensor->view(), i));
  return out;
}

// By hand: a target pixel's centre (i + 0.5) * source / target - 0.5 lies between two source
// pixels.
TEST(Resize, BilinearEnlargesByPixelCentres) {
  // Width 2 -> 4: centres at -0.25, 0.25, 0.75, 1.25; the outer ones are held at the edge.
  const Image image{2, 1, 1, {0, 100}};
  EXPECT_EQ(resize_pixels(image, {1, 4}, ResizeFilter::bilinear),
            (std::vector<float>{0, 25, 75, 100}));
}

TEST(Resize, BilinearReducesByPixelCentres) {
  // Width 4 -> 2: centres at 0.5 and 2.5, halfway between neighbours.
  const Image image{4, 1, 1, {10, 20, 40, 80}};
  EXPECT_EQ(resize_pixels(image, {1, 2}, ResizeFilter::bilinear), (std::vector<float>{15, 60}));
  // Width 3 -> 2: centres at 0.25 and 1.75.
  const Image three{3, 1, 1, {0, 100, 200}};
  EXPECT_EQ(resize_pixels(three, {1, 2}, ResizeFilter::bilinear), (std::vector<float>{25, 175}));
}

TEST(Resize, BilinearInBothDirections) {
  const Image image{2, 2, 1, {0, 100, 200, 60}};
  // The centre of the picture: the mean of all four.
  EXPECT_EQ(resize_pixels(image, {1, 1}, ResizeFilter::bilinear), (std::vector<float>{90}));
  // Row 1 of 4 (weight 0.25 down), column 1 of 4 (weight 0.25 across): 0.75*(0.75*0+0.25*100) +
  // 0.25*(0.75*200+0.25*60).
  const std::vector<float> four = resize_pixels(image, {4, 4}, ResizeFilter::bilinear);
  EXPECT_FLOAT_EQ(four[5], 60);
  EXPECT_EQ(four[0], 0);
  EXPECT_EQ(four[15], 60);
}

TEST(Resize, NearestTakesThePixelUnderTheCentre) {
  const Image image{3, 1, 1, {10, 20, 30}};
  EXPECT_EQ(resize_pixels(image, {1, 2}, ResizeFilter::nearest), (std::vector<float>{10, 30}));
  EXPECT_EQ(resize_pixels(image, {1, 6}, ResizeFilter::nearest),
            (std::vector<float>{10, 10, 20, 20, 30, 30}));
  EXPECT_EQ(resize_pixels(image, {2, 1}, ResizeFilter::nearest), (std::vector<float>{20, 20}));
}

TEST(Resize, KeepsChannelsApart) {
  const Image image{2, 1, 3, {0, 10, 20, 100, 110, 220}};
  EXPECT_EQ(resize_pixels(image, {1, 1}, ResizeFilter::bilinear),
            (std::vector<float>{50, 60, 120}));
}

TEST(Preprocess, ScalesThenSubtractsMeanThenDividesByStd) {
  const PreprocessPlan plan = planned(stated("scale=1/255,mean=0.5:0.25:0,std=0.5:1:2"),
                                      input(DataType::fp32, {-1, 3, 1, 1}));
  const Result<Tensor> tensor = preprocess_image(Image{1, 1, 3, {255, 51, 102}}, plan);
  EXPECT_EQ(tensor->shape(), (Shape{1, 3, 1, 1}));
  const std::vector<double> found = values(tensor);
  EXPECT_FLOAT_EQ(static_cast<float>(found[0]), 1.0F);    // (1 - 0.5) / 0.5
  EXPECT_FLOAT_EQ(static_cast<float>(found[1]), -0.05F);  // (0.2 - 0.25) / 1
  EXPECT_FLOAT_EQ(static_cast<float>(found[2]), 0.2F);    // 0.4 / 2
}

TEST(Preprocess, LaysOutChannels) {
  const Image image{2, 1, 3, {1, 2, 3, 4, 5, 6}};
  EXPECT_EQ(values(preprocess_image(
                image, planned(stated("scale=1"), input(DataType::fp32, {-1, 3, 1, 2})))),
            (std::vector<double>{1, 4, 2, 5, 3, 6}));
  EXPECT_EQ(values(preprocess_image(image, planned(stated("scale=1,channels=bgr"),
                                                   input(DataType::fp32, {-1, 3, 1, 2})))),
            (std::vector<double>{3, 6, 2, 5, 1, 4}));
}

TEST(Preprocess, LaysOutChannelsLast) {
  const Image image{2, 1, 3, {1, 2, 3, 4, 5, 6}};
  const Result<Tensor> tensor = preprocess_image(
      image, planned(stated("scale=1,layout=nhwc"), input(DataType::fp32, {-1, 1, 2, 3})));
  EXPECT_EQ(tensor->shape(), (Shape{1, 1, 2, 3}));
  EXPECT_EQ(values(tensor), (std::vector<double>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(values(preprocess_image(image, planned(stated("scale=1,layout=nhwc,channels=bgr"),
                                                   input(DataType::fp32, {-1, 1, 2, 3})))),
            (std::vector<double>{3, 2, 1, 6, 5, 4}));
}

TEST(Preprocess, RoundsAndClampsIntegers) {
  const PreprocessPlan plan =
      planned(stated("scale=2,mean=100"), input(DataType::uint8, {-1, 1, 1, 4}));
  EXPECT_EQ(values(preprocess_image(Image{4, 1, 1, {0, 50, 75, 255}}, plan)),
            (std::vector<double>{0, 0, 50, 255}));
  const PreprocessPlan half = planned(stated("scale=0.5"), input(DataType::uint8, {-1, 1, 1, 2}));
  EXPECT_EQ(values(preprocess_image(Image{2, 1, 1, {1, 2}}, half)), (std::vector<double>{1, 1}));
}

TEST(Preprocess, FillsEveryFloatingType) {
  for (const DataType type : {DataType::fp16, DataType::bf16, DataType::fp32, DataType::fp64}) {
    EXPECT_EQ(values(preprocess_image(Image{1, 1, 1, {3}},
                                      planned(stated("scale=0.5"), input(type, {-1, 1, 1, 1})))),
              (std::vector<double>{1.5}));
  }
}

TEST(Preprocess, FollowsTheModelWhereNothingIsStated) {
  const PreprocessPlan plan = planned(stated("scale=1"), input(DataType::fp32, {-1, 3, 224, 192}));
  EXPECT_EQ(plan.size, (ImageSize{224, 192}));
  EXPECT_EQ(plan.layout, PixelLayout::nchw);
  EXPECT_EQ(plan.channels, PixelChannels::rgb);
  const PreprocessPlan last = planned(stated("scale=1"), input(DataType::fp32, {-1, 224, 192, 1}));
  EXPECT_EQ(last.layout, PixelLayout::nhwc);
  EXPECT_EQ(last.channels, PixelChannels::gray);
  const PreprocessPlan bytes = planned({}, input(DataType::uint8, {3, 8, 8}, -1));
  EXPECT_EQ(bytes.scale, 1);
  EXPECT_EQ(bytes.rank, 3U);
}

TEST(Preprocess, KeepsAPicturesSizeWhereTheModelTakesAny) {
  const PreprocessPlan plan = planned(stated("scale=1"), input(DataType::fp32, {-1, 1, -1, -1}));
  EXPECT_EQ(preprocess_image(Image{3, 2, 1, {1, 2, 3, 4, 5, 6}}, plan)->shape(),
            (Shape{1, 1, 2, 3}));
}

TEST(Preprocess, RefusesWhatDoesNotFit) {
  const TensorInfo rgb = input(DataType::fp32, {-1, 3, 8, 8});
  EXPECT_EQ(plan_refusal("scale=1,channels=gray", rgb),
            "images for input \"images\": expected 3 channels for shape [-1,3,8,8], got 1 from "
            "\"channels\"");
  EXPECT_NE(plan_refusal("scale=1,resize=9x8", rgb).find("got \"resize\" to 9x8"),
            std::string::npos);
  EXPECT_NE(plan_refusal("channels=rgb", rgb).find("scale=1/255"), std::string::npos);
  EXPECT_NE(plan_refusal("scale=1", input(DataType::int64, {-1, 3, 8, 8})).find("takes INT64"),
            std::string::npos);
  EXPECT_NE(plan_refusal("scale=1", input(DataType::fp32, {-1, 16})).find("takes [-1,16]"),
            std::string::npos);
  EXPECT_NE(plan_refusal("scale=1", input(DataType::fp32, {-1, 8, 8}, 0)).find("takes [-1,8,8]"),
            std::string::npos);
  EXPECT_NE(plan_refusal("scale=1", input(DataType::fp32, {-1, 5, 8, 8})).find("state \"layout\""),
            std::string::npos);
  EXPECT_NE(plan_refusal("scale=1,layout=NCHW", input(DataType::fp32, {-1, -1, 8, 8}))
                .find("state \"channels\""),
            std::string::npos);
  EXPECT_NE(plan_refusal("scale=1", input(DataType::fp32, {-1, 3, -1, 8})).find("state \"resize\""),
            std::string::npos);
  EXPECT_NE(plan_refusal("scale=1,mean=1:2:3", input(DataType::fp32, {-1, 1, 8, 8}))
                .find("mean: expected 1"),
            std::string::npos);
}

TEST(Preprocess, TextAndJsonSayTheSame) {
  const Result<ImagePreprocess> json = parse_preprocess_json(
      R"({"resize": [8, 9], "layout": "NHWC", "channels": "bgr", "scale": "1/4", "mean": [0.5, 1, 2], "std": 2, "filter": "nearest"})",
      "x");
  ASSERT_TRUE(json.ok()) << json.error().message;
  EXPECT_EQ(*json, stated("resize=8x9, layout=NHWC, channels=bgr, scale=0.25, mean=0.5:1:2, std=2, "
                          "filter=nearest"));
}

TEST(Preprocess, TextGoesOnTopOfTheConfiguration) {
  const Result<ImagePreprocess> merged =
      parse_preprocess_text("scale=2,channels=rgb", stated("resize=4,scale=1"));
  ASSERT_TRUE(merged.ok());
  EXPECT_EQ(merged->resize, (ImageSize{4, 4}));
  EXPECT_EQ(merged->scale, 2);
}

TEST(Preprocess, RefusesBadStatements) {
  const auto refusal = [](std::string_view text) {
    const Result<ImagePreprocess> result = parse_preprocess_text(text);
    return result.ok() ? "accepted" : result.error().message;
  };
  EXPECT_EQ(refusal("chanels=gray"),
            "preprocess: unknown field \"chanels\"; did you mean \"channels\"?");
  EXPECT_EQ(refusal("channels=cmyk"),
            "preprocess: channels: expected one of gray, rgb, bgr, got \"cmyk\"");
  EXPECT_NE(refusal("resize"), "accepted");
  for (const std::string_view text :
       {"", ",", "resize=0x8", "resize=-1", "resize=8x8x8", "resize=99999999",
        "resize=", "scale=1/0", "scale=nan", "scale=1e400", "scale=x", "mean=1:2", "std=0",
        "mean=", "layout=CHW", "filter=cubic", "scale=1e300/1e-300"}) {
    EXPECT_NE(refusal(text), "accepted") << text;
  }
}

TEST(Preprocess, RefusesBadJson) {
  for (const std::string_view text :
       {"", "[]", "{", R"({"resize": 8})", R"({"resize": [8]})", R"({"resize": [8, 8.5]})",
        R"({"resize": ["8", "8"]})", R"({"scale": [1]})", R"({"scale": true})", R"({"mean": []})",
        R"({"mean": [1, "2", 3]})", R"({"layout": 1})", R"({"scale": 1, "scale": 2})",
        R"({"scale": 1e999})", R"({"sacle": 1})"}) {
    const Result<ImagePreprocess> result = parse_preprocess_json(text, "here");
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_EQ(result.error().code, ErrorCode::invalid_argument);
    EXPECT_EQ(result.error().message.find("here"), 0U) << result.error().message;
  }
}

}  // namespace
}  // namespace millrace
