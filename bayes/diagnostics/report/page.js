"use strict";
(() => {
  const PAGE = 50;
  const NOTHING = "—";
  const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  // A cell's place in a sorted column; null where it has no value and goes last.
  function sortKey(text, numeric) {
    if (text === NOTHING) return null;
    return numeric ? Number(text.replace("∞", "Infinity")) : text;
  }

  class DataTable {
    constructor(box) {
      this.box = box;
      this.body = box.querySelector("tbody");
      this.heads = [...box.querySelectorAll("thead th")];
      this.numeric = this.heads.map((head) => head.classList.contains("n"));
      const data = box.querySelector('script[type="application/json"]');
      this.rows = data ? this.readData(JSON.parse(data.textContent)) : this.readBody();
      this.lazy = data !== null;
      const words = this.numeric.some((numeric) => !numeric)
        ? (cells) => cells.filter((_, place) => !this.numeric[place])
        : (cells) => cells;
      for (const row of this.rows) row.text = words(row.cells).join(" ").toLowerCase();
      this.column = -1;
      this.descending = false;
      this.page = 0;
      this.whole = false;
      this.addSorting();
      this.addControls();
      this.update();
    }

    readBody() {
      return [...this.body.rows].map((line) => ({
        line,
        cells: [...line.cells].map((cell) => cell.firstChild?.textContent ?? ""),
        flagged: line.classList.contains("flagged"),
      }));
    }

    readData({ cells, flagged }) {
      const marked = new Set(flagged);
      return cells[0].map((_, row) => ({
        line: null,
        cells: cells.map((column) => column[row]),
        flagged: marked.has(row),
      }));
    }

    addSorting() {
      this.heads.forEach((head, place) => {
        const button = element("button", { type: "button", title: "Sort" });
        button.append(...head.childNodes);
        head.append(button);
        button.addEventListener("click", () => this.sortBy(place));
      });
    }

    addControls() {
      this.filter = element("input", { type: "search", autocomplete: "off", spellcheck: false });
      this.flagged = element("input", { type: "checkbox" });
      this.previous = element("button", { type: "button", textContent: "Previous" });
      this.next = element("button", { type: "button", textContent: "Next" });
      this.all = element("button", { type: "button", textContent: "Show all" });
      this.count = element("output");
      this.count.setAttribute("aria-live", "polite");
      const only = element("label", {}, this.flagged, "Only flagged");
      only.hidden = !this.rows.some((row) => row.flagged);
      const top = element("div", { className: "controls" });
      top.append(element("label", {}, "Filter", this.filter), only);
      const foot = element("div", { className: "controls count" });
      foot.append(this.count, this.previous, this.next, this.all);
      const scroll = this.box.querySelector(".scroll");
      scroll.before(top);
      scroll.after(foot);
      this.filter.addEventListener("input", () => this.restart());
      this.flagged.addEventListener("change", () => this.restart());
      this.previous.addEventListener("click", () => this.turn(-1));
      this.next.addEventListener("click", () => this.turn(1));
      this.all.addEventListener("click", () => {
        this.whole = !this.whole;
        this.restart();
      });
    }

    // Up, down, and back to the order in which the rows came.
    sortBy(place) {
      if (this.column !== place) {
        this.column = place;
        this.descending = false;
      } else if (!this.descending) {
        this.descending = true;
      } else {
        this.column = -1;
      }
      this.heads.forEach((head, at) => {
        if (at !== this.column) head.removeAttribute("aria-sort");
        else head.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
      });
      this.restart();
    }

    restart() {
      this.page = 0;
      this.update();
    }

    turn(step) {
      this.page += step;
      this.update();
    }

    view() {
      const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      const kept = this.rows.filter(
        (row) =>
          (row.flagged || !this.flagged.checked) && words.every((word) => row.text.includes(word)),
      );
      if (this.column < 0) return kept;
      const numeric = this.numeric[this.column];
      const sign = this.descending ? -1 : 1;
      return kept
        .map((row) => ({ row, key: sortKey(row.cells[this.column], numeric) }))
        .sort((a, b) => {
          if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
          if (a.key === b.key) return 0;
          return sign * (numeric ? (a.key < b.key ? -1 : 1) : order.compare(a.key, b.key));
        })
        .map(({ row }) => row);
    }

    update() {
      const view = this.view();
      const pages = Math.max(1, Math.ceil(view.length / PAGE));
      this.page = Math.min(Math.max(this.page, 0), pages - 1);
      const from = this.whole ? 0 : this.page * PAGE;
      const shown = this.whole ? view : view.slice(from, from + PAGE);
      this.draw(view, shown);
      const filtered = view.length < this.rows.length ? ` (filtered from ${this.rows.length})` : "";
      this.count.textContent = shown.length
        ? `Rows ${from + 1}–${from + shown.length} of ${view.length}${filtered}`
        : `No row matches${filtered}`;
      const paged = !this.whole && view.length > PAGE;
      this.previous.hidden = this.next.hidden = !paged;
      this.previous.disabled = this.page === 0;
      this.next.disabled = this.page === pages - 1;
      this.all.hidden = view.length <= PAGE;
      this.all.textContent = this.whole ? `Show ${PAGE} a page` : "Show all";
    }

    // Rows that stand in the page stay there, so that all of them can be printed.
    draw(view, shown) {
      if (this.lazy) {
        this.body.replaceChildren(...shown.map((row) => this.line(row)));
        return;
      }
      const visible = new Set(shown);
      const kept = new Set(view);
      const others = this.rows.filter((row) => !kept.has(row));
      for (const row of this.rows) row.line.hidden = !visible.has(row);
      this.body.append(...[...view, ...others].map((row) => row.line));
    }

    line(row) {
      const line = element("tr", { className: row.flagged ? "flagged" : "" });
      row.cells.forEach((text, place) => {
        const cell = element(place ? "td" : "th", { textContent: text });
        if (!place) cell.scope = "row";
        if (this.numeric[place]) cell.className = "n";
        if (!place && row.flagged) {
          cell.append(element("span", { className: "vh", textContent: " (flagged)" }));
        }
        line.append(cell);
      });
      return line;
    }
  }

  for (const box of document.querySelectorAll("[data-searchable]")) new DataTable(box);
})();
