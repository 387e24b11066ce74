"""Draw docs/_static/faces.png, the contact sheet of the synthetic faces."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from siameselib.data.faces import synthetic_faces

PEOPLE, EACH, SIZE, BORDER, CAPTION = 7, 8, 88, 4, 44
TEXT = "Each row is one person. Drawings made by numpy, not photographs: no such people exist."


def main() -> None:
    """Draw the sheet beside the other pictures of the docs."""
    faces = synthetic_faces(people=PEOPLE, images_per_person=EACH, size=SIZE, seed=3)
    step = SIZE + BORDER
    sheet = Image.new("RGB", (EACH * step + BORDER, PEOPLE * step + BORDER + CAPTION), "white")
    for i, image in enumerate(faces.images):
        at = (BORDER + i % EACH * step, BORDER + i // EACH * step)
        sheet.paste(Image.fromarray(image), at)
    middle = (sheet.width / 2, sheet.height - CAPTION / 2)
    font = ImageFont.load_default(16)
    ImageDraw.Draw(sheet).text(middle, TEXT, fill="black", font=font, anchor="mm")
    target = Path(__file__).parent / "_static" / "faces.png"
    sheet.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    main()
