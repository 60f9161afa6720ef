"""YOLOv4 (Bochkovskiy et al. 2020): CSPDarknet53, pyramid pooling, path aggregation, and three heads, undecoded."""

from builder import Builder, Tensor

PARAMETERS = 64_329_949  # 64,363,101 while training; folding a normalization leaves one number of two per channel
MACS = {416: 30_052_385_792, 608: 64_194_741_248}  # by image size

STAGES = ((1, 64), (2, 128), (8, 256), (8, 512), (4, 1024))  # blocks, width
POOLS = (13, 9, 5)
ANCHORS, CLASSES = 3, 80
HEAD = ANCHORS * (4 + 1 + CLASSES)
RESIDUAL_SCALE = 0.5  # of the branch that is added, so that eight sums do not pile up


def yolov4(b: Builder, size: int) -> None:
    fine, middle, coarse = backbone(b, b.input("images", (3, size, size)))
    coarse = pyramid_pool(b, coarse)
    middle = merged(b, "up1", lateral(b, middle, "up1.lateral"), raised(b, coarse, "up1"))
    fine = merged(b, "up2", lateral(b, fine, "up2.lateral"), raised(b, middle, "up2"))
    head(b, fine, "head8")
    middle = merged(b, "down1", lowered(b, fine, "down1"), middle)
    head(b, middle, "head16")
    coarse = merged(b, "down2", lowered(b, middle, "down2"), coarse)
    head(b, coarse, "head32")


def backbone(b: Builder, x: Tensor) -> list[Tensor]:
    """The maps of 1/8, 1/16 and 1/32 of the size."""
    x = b.conv(x, 32, 3, "stem", activation="Mish")
    maps = []
    for stage, (blocks, width) in enumerate(STAGES, start=1):
        x = cross_stage(b, x, blocks, width, f"stage{stage}")
        maps.append(x)
    return maps[-3:]


def cross_stage(b: Builder, x: Tensor, blocks: int, width: int, name: str) -> Tensor:
    """Half of the channels go through the residual blocks and half around them; the first stage has all in both."""
    first = width == STAGES[0][1]
    part, inner = (width, width // 2) if first else (width // 2, width // 2)
    x = b.conv(x, width, 3, f"{name}.down", stride=2, activation="Mish")
    around = b.conv(x, part, 1, f"{name}.around", activation="Mish")
    x = b.conv(x, part, 1, f"{name}.through", activation="Mish")
    for block in range(1, blocks + 1):
        y = b.conv(x, inner, 1, f"{name}.{block}.conv1", activation="Mish")
        y = b.conv(y, part, 3, f"{name}.{block}.conv2", activation="Mish", scale=RESIDUAL_SCALE)
        x = b.add(x, y, f"{name}.{block}")
    x = b.conv(x, part, 1, f"{name}.after", activation="Mish")
    return b.conv(joined(b, f"{name}.join", x, around), width, 1, f"{name}.out", activation="Mish")


def pyramid_pool(b: Builder, x: Tensor) -> Tensor:
    x = convs(b, x, 3, "pyramid.before")
    x = joined(b, "pyramid.join", *(b.max_pool(x, kernel, f"pyramid.pool{kernel}") for kernel in POOLS), x)
    return convs(b, x, 3, "pyramid.after", width=512)


def convs(b: Builder, x: Tensor, count: int, name: str, width: int | None = None) -> Tensor:
    """1x1 to half of the channels (or to `width`) and 3x3 to twice that, in turns, ending narrow."""
    narrow = width or x.shape[0] // 2
    for i in range(1, count + 1):
        channels, kernel = (narrow, 1) if i % 2 else (2 * narrow, 3)
        x = b.conv(x, channels, kernel, f"{name}{i}", activation="LeakyRelu")
    return x


def lateral(b: Builder, x: Tensor, name: str) -> Tensor:
    return b.conv(x, x.shape[0] // 2, 1, name, activation="LeakyRelu")


def raised(b: Builder, x: Tensor, name: str) -> Tensor:
    x = b.conv(x, x.shape[0] // 2, 1, f"{name}.narrow", activation="LeakyRelu")
    channels, height, width = x.shape
    return b.op("Resize", [x, "", b.floats("twice", [1, 1, 2, 2])], f"{name}.resize", (channels, 2 * height, 2 * width),
                mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")


def lowered(b: Builder, x: Tensor, name: str) -> Tensor:
    return b.conv(x, 2 * x.shape[0], 3, f"{name}.conv", stride=2, activation="LeakyRelu")


def joined(b: Builder, name: str, *tensors: Tensor) -> Tensor:
    channels = sum(x.shape[0] for x in tensors)
    return b.op("Concat", tensors, name, (channels, *tensors[0].shape[1:]), axis=1)


def merged(b: Builder, name: str, *tensors: Tensor) -> Tensor:
    return convs(b, joined(b, f"{name}.join", *tensors), 5, f"{name}.conv")


def head(b: Builder, x: Tensor, name: str) -> None:
    x = b.conv(x, 2 * x.shape[0], 3, f"{name}.conv", activation="LeakyRelu")
    b.output(b.conv(x, HEAD, 1, f"{name}.boxes"), name)
