"""Prints the reference of the steps: `python -m cdcflow.transform > docs/transforms.md`."""

from cdcflow.transform.reference import page

if __name__ == "__main__":
    print(page(), end="")
