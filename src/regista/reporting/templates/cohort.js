"use strict";
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = () => [...body.rows];
  const filters = [...document.querySelectorAll(".filter")];
  const search = document.getElementById("search");
  const shown = document.getElementById("shown");

  const filter = () => {
    const wanted = new Set(filters.filter((box) => box.checked).map((box) => box.value));
    const word = search.value.toLowerCase();
    let count = 0;
    for (const row of rows()) {
      const keep = wanted.has(row.dataset.outcome) && row.cells[1].textContent.toLowerCase().includes(word);
      row.hidden = !keep;
      count += keep;
    }
    shown.textContent = `${count} shown`;
  };
  filters.forEach((box) => box.addEventListener("change", filter));
  search.addEventListener("input", filter);

  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[at].dataset.value;
      const sorted = rows().sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = Number.isNaN(Number(x)) ? x.localeCompare(y) : Number(x) - Number(y);
        return up ? order : -order;
      });
      body.append(...sorted);
    });
  });

  const cell = (text) => {
    // a spreadsheet would run what begins like a formula
    const formula = /^[=+@\t\r-]/.test(text) && !/^[-+]?[\d.]+(e[-+]?\d+)?$/i.test(text);
    const safe = formula ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  document.getElementById("download").addEventListener("click", () => {
    const lines = [heads.slice(1).map((head) => cell(head.textContent.replaceAll("\u00ad", ""))).join(",")];
    for (const row of rows().filter((one) => !one.hidden)) {
      lines.push([...row.cells].slice(1).map((one) => cell(one.dataset.text ?? one.dataset.value ?? "")).join(","));
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff", lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = "runs.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  filter();
})();
