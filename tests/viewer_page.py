"""What the viewer's browser tests do with its page."""

DRAWN = "(document.querySelector('.plane canvas')?.dataset.drawn ?? '')"
# A function of the n-th plane of a patient: its canvas and where the picture lies on it.
_PLANE = """(async () => {
  const {placement} = await import("./draw.js"), {planeShape} = await import("./planes.js");
  const {view: {scan}} = await import("./state.js"), shape = planeShape(scan, %d);
  const canvas = document.querySelectorAll(".plane canvas")[%d], at = placement(canvas, shape);
  const corner = canvas.getBoundingClientRect();
  return (%s);
})()"""
_PIXEL = """(() => {
  const x = at.x + (%d + .5) * at.width / shape.width;
  const y = at.y + (%d + .5) * at.height / shape.height;
  const context = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  context.drawImage(canvas, -Math.floor(x), -Math.floor(y));
  return [...context.getImageData(0, 0, 1, 1).data];
})()"""


def text(page, selector: str) -> str:
    """Return the text of an element."""
    return page.run(f"document.querySelector({selector!r}).textContent")


def of_plane(page, axis: int, expression: str):
    """Return an expression of `at`, `canvas`, `corner`, `shape` of a plane that is not zoomed."""
    return page.run(_PLANE % (axis, axis, expression))


def pixel(page, x: int, y: int) -> tuple[int, ...]:
    """Return the colour at the middle of a pixel of the slice."""
    page.run("new Promise(requestAnimationFrame)")
    return tuple(of_plane(page, 0, _PIXEL % (x, y))[:3])


def hover(page, x: float, y: float) -> str:
    """Move the mouse to a place of the page; return the voxel that is said to lie there."""
    page.mouse("mouseMoved", x, y)
    page.run("new Promise(requestAnimationFrame)")
    return text(page, "#where").split(":")[0]


def click(page, x: float, y: float):
    """Click at a place of the page."""
    drag(page, x, y, x, y)


def drag(page, x0: float, y0: float, x1: float, y1: float, **more):
    """Drag with the left button over the page; modifiers=8: with Shift."""
    page.mouse("mouseMoved", x0, y0)
    page.mouse("mousePressed", x0, y0, button="left", buttons=1, clickCount=1, **more)
    for part in (0.5, 1):
        x, y = x0 + part * (x1 - x0), y0 + part * (y1 - y0)
        page.mouse("mouseMoved", x, y, button="left", buttons=1, **more)
    page.mouse("mouseReleased", x1, y1, button="left", clickCount=1, **more)
