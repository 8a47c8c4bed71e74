"""What a page must have for those who see badly or use no mouse, asked of the page itself in a browser.

Contrast as WCAG 2.2, criterion 1.4.3, level AA, defines it.
"""

from __future__ import annotations

from typing import Any

from devtools import Browser

_CONTRAST = """(() => {
  const parse = (text) => {
    const found = text.match(/^rgba?\\(([^)]+)\\)$/);
    if (!found) throw new Error(`colour not understood: ${text}`);
    const [r, g, b, a = 1] = found[1].split(/[\\s,/]+/).filter(Boolean).map(Number);
    return [r, g, b, a];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const chain = (el) => { const all = []; for (let e = el; e; e = e.parentElement) all.unshift(e); return all; };
  const ground = (el) => {  // white paper under all
    let colour = [255, 255, 255, 1];
    if (getComputedStyle(document.documentElement).colorScheme === 'dark') colour = [18, 18, 18, 1];
    for (const e of chain(el)) colour = over(parse(getComputedStyle(e).backgroundColor), colour);
    return colour;
  };
  const light = ([r, g, b]) => {
    const part = (v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ratio = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const texts = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    const el = walker.currentNode.parentElement;
    if (text && !el.closest('script, style, option')) texts.set(el, text);
  }
  for (const el of document.querySelectorAll('select, input[type=search], input[type=text]')) texts.set(el, el.id);
  const poor = [];
  let checked = 0;
  for (const [el, text] of texts) {
    const box = el.getBoundingClientRect();
    if (!el.checkVisibility({ visibilityProperty: true }) || !box.width || !box.height) continue;
    if (el.closest(':disabled') || el.closest('label')?.querySelector(':disabled')) continue;  // exempt
    const style = getComputedStyle(el);
    const back = ground(el);
    const ink = parse(el instanceof SVGElement ? style.fill : style.color);
    ink[3] *= chain(el).reduce((all, e) => all * Number(getComputedStyle(e).opacity), 1);
    const pixels = parseFloat(style.fontSize);
    const large = pixels >= 24 || (pixels >= 18.66 && Number(style.fontWeight) >= 700);
    const found = ratio(over(ink, back), back);
    checked += 1;
    if (found < (large ? 3 : 4.5)) poor.push(`${text.slice(0, 40)}: ${found.toFixed(2)}, ${style.color} on ${back}`);
  }
  return { checked, poor };
})()"""

_MARKUP = """(() => {
  const wrong = [];
  const tell = (what, el) => wrong.push(`${what}: ${el.outerHTML.slice(0, 120)}`);
  if (!document.documentElement.lang) wrong.push('no language');
  if (!document.title) wrong.push('no title');
  for (const img of document.querySelectorAll('img')) if (!img.hasAttribute('alt')) tell('no alt', img);
  for (const svg of document.querySelectorAll('svg, canvas'))
    if (!svg.getAttribute('aria-label')) tell('no label', svg);
  for (const svg of document.querySelectorAll('[role=img]')) if (svg.querySelector('a, button')) tell('links in a picture', svg);
  for (const table of document.querySelectorAll('table')) {
    if (!table.querySelector('th')) tell('no headers', table);
    if (!table.caption && !table.getAttribute('aria-label') && !table.getAttribute('aria-labelledby')) tell('no caption', table);
  }
  for (const th of document.querySelectorAll('th')) if (!th.scope) tell('no scope', th);
  for (const el of document.querySelectorAll('input, select'))
    if (!el.labels.length && !el.getAttribute('aria-label')) tell('no label', el);
  for (const el of document.querySelectorAll('a[href], button, summary'))
    if (!el.textContent.trim() && !el.getAttribute('aria-label')) tell('no name', el);
  const ids = [...document.querySelectorAll('[id]')].map((el) => el.id);
  ids.filter((id, n) => ids.indexOf(id) !== n).forEach((id) => wrong.push(`id twice: ${id}`));
  return wrong;
})()"""

_TO_REACH = """(() => {
  const all = [...document.querySelectorAll('a[href], button, input, select, summary, canvas, [tabindex="0"]')];
  return all.filter((el) => el.checkVisibility({ visibilityProperty: true }) && !el.matches(':disabled')
    && !(el.type === 'radio' && !el.checked));  // of radio buttons the chosen one; arrows reach the others
})()"""

_FOCUS = """(() => {
  const el = document.activeElement;
  if (!el || el === document.body || el === document.documentElement) return null;
  const seen = [el, el.closest('label'), ...el.querySelectorAll('*')].some((one) => {
    const style = one && getComputedStyle(one);
    return style && style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
  });
  const again = el.dataset.reached === 'yes';
  el.dataset.reached = 'yes';
  return { seen, again, html: el.outerHTML.slice(0, 120) };
})()"""


def contrast(page: Browser) -> dict[str, Any]:
    """Return how many texts were measured, and those whose contrast is too small."""
    return dict(page.evaluate(_CONTRAST))


def faults(page: Browser) -> list[str]:
    """Return what has no name, no alternative text or no header."""
    return list(page.evaluate(_MARKUP))


def walk(page: Browser, limit: int = 200) -> tuple[list[str], list[str]]:
    """Go through a page by the tab key; return what was not reached, and where the focus could not be seen."""
    page.evaluate(
        "document.activeElement?.blur(); document.querySelectorAll('[data-reached]').forEach((el) => delete el.dataset.reached)"
    )
    unseen = []
    for _ in range(limit):
        page.press("Tab")
        here = page.evaluate(_FOCUS)
        if here is None or here["again"]:
            break
        if not here["seen"]:
            unseen.append(here["html"])
    else:
        raise AssertionError(f"the tab key does not come round in {limit} steps")
    missed = page.evaluate(
        f"{_TO_REACH}.filter((el) => el.dataset.reached !== 'yes').map((el) => el.outerHTML.slice(0, 120))"
    )
    return list(missed), unseen
