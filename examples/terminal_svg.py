#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""terminal_svg.py <TEXT >SVG: a terminal's window with the text in it. Lines that begin with "$ " are what somebody typed; those that begin with
two spaces are set apart."""
import html
import sys

lines = sys.stdin.read().rstrip("\n").split("\n")
CHAR, LINE, MARGIN, BAR = 8.4, 20, 16, 28
width = round(max(len(line) for line in lines) * CHAR + 2 * MARGIN)
height = BAR + len(lines) * LINE + 2 * MARGIN

print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">')
print(f"<title>{html.escape(lines[0])}</title>")
print(f'<rect width="{width}" height="{height}" rx="8" fill="#16181d"/>')
for i, colour in enumerate(("#e5534b", "#d5a021", "#46a758")):
    print(f'<circle cx="{MARGIN + 20 * i + 4}" cy="{BAR / 2}" r="5" fill="{colour}"/>')
print("<g font-family=\"ui-monospace, 'DejaVu Sans Mono', monospace\" font-size=\"14\" fill=\"#d7dae0\" xml:space=\"preserve\">")
for i, line in enumerate(lines):
    colour = ' fill="#7ee787" font-weight="bold"' if line.startswith("$ ") else ' fill="#79c0ff"' if line.startswith("  ") else ""
    print(f'<text x="{MARGIN}" y="{BAR + MARGIN + LINE * i}"{colour} textLength="{round(len(line) * CHAR, 1)}">{html.escape(line)}</text>' if line else "")
print("</g>")
print("</svg>")
