"""A report as one HTML page that needs nothing else, and as Markdown. Everything printed is escaped by the engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from models.metrics.confusions import NONE
from orchestrator.report.blocks import Block, Section, visible
from orchestrator.report.style import CSS

SPECIAL_IN_MARKDOWN = re.compile(r"([\\`*\[\]|~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # nothing is fetched, no script runs

BLOCK_HTML = """
{%- macro said(cell) %}
{%- if cell is string %}{{ cell }}{% else %}<a href="{{ cell.address }}">{{ cell.says }}</a>{% endif %}
{%- endmacro %}
{%- macro table(block) %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ block.caption }}">
<table><caption><span>{{ block.caption }}</span></caption>
<thead><tr>{% for name in block.columns %}<th scope="col"{% if block.numeric[loop.index0] %} class="n"{% endif %}>
{{- name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in block.rows %}
<tr>{% for cell in row %}
{%- if loop.first %}<th scope="row"{% if block.numeric[0] %} class="n"{% endif %}>{{ said(cell) }}</th>
{%- else %}<td{% if block.numeric[loop.index0] %} class="n"{% endif %}>{{ said(cell) }}</td>{% endif %}{% endfor %}</tr>
{%- endfor %}</tbody></table></div>
{%- endmacro %}
{%- macro line(pairs, side) %}
{%- for pair in pairs %}
{%- if pair[0] == pair[1] %}{{ pair[side] }}
{%- elif pair[side] %}<mark>{{ pair[side] }}</mark>
{%- else %}<mark class="gap"> </mark>{% endif %}{% endfor %}
{%- endmacro %}
{%- macro shown(block) %}
{%- if block.kind == "text" %}
<p class="{{ block.tone }}">{% if block.tone == "warning" %}<strong>Warning.</strong> {% endif %}{{ block.says }}</p>
{%- elif block.kind == "table" %}
{%- if block.folded %}<details><summary>{{ block.caption }}</summary>{{ table(block) }}</details>
{%- else %}{{ table(block) }}{% endif %}
{%- elif block.kind == "figure" %}
<figure{% if block.tall %} class="tall"{% endif %}><h4>{{ block.title }}</h4>{{ block.svg | safe }}
{#- #}<figcaption>{{ block.caption }}</figcaption></figure>
{%- elif block.kind == "folded" %}
<details><summary>{{ block.title }}</summary><pre tabindex="0">{{ block.text }}</pre></details>
{%- elif block.kind == "words" %}
<h4>{{ block.title }}</h4><p class="quiet">{{ block.caption }}</p>
<ul class="words">{% for word in block.words %}
<li><img src="{{ word.image }}" alt="Picture of sample {{ word.sample }}, labelled {{ word.truth }}" loading="lazy">
<dl><dt>true</dt><dd><bdi>{{ line(word.pairs, 0) }}</bdi></dd>
<dt>read</dt><dd><bdi>{{ line(word.pairs, 1) }}</bdi></dd></dl>
<p class="quiet">{{ word.facts }}, probability {{ "%.3g" | format(word.confidence) }}<br>
<span class="id">{{ word.sample }}</span></p></li>
{%- endfor %}</ul>
{%- elif block.kind == "plates" %}
<h4>{{ block.title }}</h4><p class="quiet">{{ block.caption }}</p>
<ul class="plates{{ ' wide' if block.wide else '' }}">{% for plate in block.plates %}
<li><p><b><bdi>{{ plate.truth }}</bdi></b> <span class="quiet">{{ plate.facts }}, <span class="id">
{{- plate.sample }}</span></span></p>
<div class="views">{% for view in plate.views %}
<div><span class="quiet">{{ view.name }}</span>
<img src="{{ view.image }}" alt="{{ view.name }} of {{ plate.sample }}, labelled {{ plate.truth }}" loading="lazy">
{% if view.read %}<span class="{{ 'right' if view.right else 'wrong' }}"><bdi>
{{- line(view.pairs, 1) if view.reading else "nothing read" }}</bdi>
<span class="tick">{{ "\u2713" if view.right else "\u2717" }}</span></span>{% endif %}</div>
{%- endfor %}</div></li>
{%- endfor %}</ul>
{%- endif %}
{%- endmacro %}
"""

PAGE_HTML = (
    BLOCK_HTML
    + """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title><style>{{ css | safe }}</style></head>
<body><header><h1>{{ title }}</h1><nav aria-label="Sections"><ul>
{%- for section in sections %}<li><a href="#{{ section.anchor }}">{{ section.title }}</a></li>{% endfor -%}
</ul></nav></header><main>
{%- for section in sections %}
<section id="{{ section.anchor }}"><h2>{{ section.title }}</h2>
{%- for block in section.blocks %}{{ shown(block) }}{% endfor %}
{%- for part in section.sections %}
<section><h3>{{ part.title }}</h3>
{%- for group in part.blocks | groups %}
{%- if group[0].kind == "figure" %}<div class="figures">{% for block in group %}{{ shown(block) }}{% endfor %}</div>
{%- else %}{% for block in group %}{{ shown(block) }}{% endfor %}{% endif %}{% endfor %}</section>
{%- endfor %}</section>
{%- endfor %}
</main></body></html>
"""
)

PAGE_MARKDOWN = """
{%- macro said(cell) %}
{%- if cell is string %}{{ cell }}{% else %}[{{ cell.says }}]({{ cell.address }}){% endif %}
{%- endmacro %}
{%- macro shown(block) %}
{%- if block.kind == "text" %}
{% if block.tone == "warning" %}**Warning.** {% endif %}{{ block.says }}
{% elif block.kind == "table" %}
{{ block.caption }}

|{% for name in block.columns %} {{ name }} |{% endfor %}
|{% for right in block.numeric %}{% if right %} ---: |{% else %} --- |{% endif %}{% endfor %}
{% for row in block.rows %}|{% for cell in row %} {{ said(cell) }} |{% endfor %}
{% endfor %}
{%- elif block.kind == "figure" %}
{{ block.title }}: {{ block.caption }} (The plot is in {{ html }}.)
{% elif block.kind == "folded" %}
{{ block.title }}:

{{ block.text | fenced }}
{% elif block.kind == "words" %}
{{ block.title }}. {{ block.caption }} (The pictures are in {{ html }}.)

| sample | true | read | differs | probability | |
| --- | --- | --- | --- | ---: | --- |
{% for word in block.words -%}
| {{ word.sample }} | {{ word.truth }} | {{ word.reading }} | {{ word.pairs | differences }} | {{- " " -}}
{{ "%.3g" | format(word.confidence) }} | {{ word.facts }} |
{% endfor %}
{%- elif block.kind == "plates" %}
{{ block.title }}. {{ block.caption }} (The pictures are in {{ html }}.)

| sample | true |{% for view in block.plates[0].views %} {{ view.name }} |{% endfor %} |
| --- | --- |{% for view in block.plates[0].views %} --- |{% endfor %} --- |
{% for plate in block.plates -%}
| {{ plate.sample }} | {{ plate.truth }} |{% for view in plate.views %} {{ view.reading }}
{{- " (right)" if view.read and view.right else "" }} |{% endfor %} {{ plate.facts }} |
{% endfor %}
{%- endif %}
{%- endmacro %}# {{ title }}

Plots and pictures are in {{ html }} beside this file.
{% for section in sections %}
## {{ section.title }}
{% for block in section.blocks %}{{ shown(block) }}{% endfor %}
{%- for part in section.sections %}
### {{ part.title }}
{% for block in part.blocks %}{{ shown(block) }}{% endfor %}
{%- endfor %}
{%- endfor %}"""


def html(title: str, sections: Sequence[Section]) -> str:
    """The whole page: no script, no font, no picture from elsewhere."""
    engine = _engine(_visible)
    engine.filters["groups"] = _groups
    return engine.from_string(PAGE_HTML).render(title=title, sections=sections, css=CSS, policy=POLICY).strip() + "\n"


def markdown(title: str, sections: Sequence[Section], *, html: str) -> str:
    """The same without plots and pictures, which are in the file called ``html``."""
    engine = _engine(_in_markdown)
    engine.filters |= {"fenced": _fenced, "differences": _differences}
    text = engine.from_string(PAGE_MARKDOWN).render(title=title, sections=sections, html=html)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _engine(finalize: Callable[[Any], Any]) -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, finalize=finalize, auto_reload=False)


def _visible(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _in_markdown(value: Any) -> Any:
    """One line of text in which nothing means anything to Markdown, to its tables or to HTML."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    line = SPECIAL_IN_MARKDOWN.sub(r"\\\1", " ".join(visible(value).split("\n")))
    return Markup(line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _fenced(text: str) -> Markup:
    """Text as it is, behind a fence that is longer than any in it."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(longest + 1, 3)
    return Markup(f"{fence}\n{visible(text)}\n{fence}")


def _differences(pairs: Sequence[tuple[str, str]]) -> str:
    told = [
        f"{read} added" if true == NONE else f"{true} left out" if read == NONE else f"{true} as {read}"
        for true, read in pairs if true != read
    ]  # fmt: skip
    return ", ".join(told)


def _groups(blocks: Sequence[Block]) -> list[list[Block]]:
    """Neighbouring figures together, all else alone."""
    runs = groupby(blocks, key=lambda block: block.kind == "figure")
    return [list(run) for _, run in runs]
