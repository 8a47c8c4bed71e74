"use strict";
(() => {
  const stage = document.getElementById("stage");
  const picture = (name) => document.querySelector(`[data-picture="${name}"]`);
  const views = [...document.querySelectorAll('input[name="view"]')];
  const slider = document.getElementById("slider");
  const speed = document.getElementById("speed");
  const opacity = document.getElementById("opacity");
  const when = document.getElementById("when");
  const pause = document.getElementById("pause");
  const caption = document.getElementById("caption");
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let after = true, top = true, timer = 0, running = !calm;

  const layer = (name) => {
    const img = new Image();
    img.src = picture(name).src;
    img.alt = "";
    stage.append(img);
    return img;
  };
  const name = () => (after ? "after" : "before");
  const words = () => (after ? "registered" : "before registration");

  const show = {
    flicker() {
      layer("fixed");
      const img = layer(name());
      const turn = () => {
        img.style.visibility = top ? "visible" : "hidden";
        caption.textContent = top ? `moving image, ${words()}` : "fixed image";
      };
      turn();
      flip = () => { top = !top; turn(); };
      restart();
    },
    slider() {
      layer("fixed");
      const img = layer(name());
      const rule = document.createElement("div");
      rule.className = "rule";
      stage.append(rule);
      const move = () => {
        img.style.clipPath = `inset(0 0 0 ${slider.value}%)`;
        rule.style.left = `${slider.value}%`;
      };
      slider.oninput = move;
      stage.onpointermove = (event) => {
        if (event.buttons || event.pointerType === "mouse") {
          const box = stage.getBoundingClientRect();
          slider.value = (100 * (event.clientX - box.left)) / box.width;
          move();
        }
      };
      move();
      caption.textContent = `left of the line: fixed image; right: moving image, ${words()}`;
    },
    checker() {
      layer("checker");
      caption.textContent = "fields of the fixed image and of the registered image by turns: lines must run on";
    },
    edges() {
      layer(name());
      const img = layer("edges");
      img.style.opacity = opacity.value;
      opacity.oninput = () => { img.style.opacity = opacity.value; };
      caption.textContent = `edges of the fixed image (yellow) on the moving image, ${words()}`;
    },
    difference() {
      layer(`difference_${name()}`);
      const contrasts = document.getElementById("contrasts")?.textContent ?? "Means little between contrasts";
      caption.textContent = `fixed less moving, ${words()}: orange where the fixed image is stronger, blue where the moving one is. ${contrasts}`;
    },
    blend() {
      layer(`blend_${name()}`);
      caption.textContent = `orange: fixed image alone; blue: moving image alone, ${words()}; gray: both. ${document.getElementById("blend").textContent}`;
    },
    labels() {
      layer("after");
      const img = layer("labels");
      img.style.opacity = opacity.value;
      opacity.oninput = () => { img.style.opacity = opacity.value; };
      caption.textContent = "label outlines: orange fixed, blue registered, white both";
    },
    landmarks() {
      layer("after");
      layer("landmarks");
      caption.textContent = "landmarks: orange ring fixed, blue cross registered, on slices they lie near";
    },
  };
  let flip = null;
  const restart = () => {
    clearInterval(timer);
    pause.textContent = running ? "Pause" : "Play";
    if (flip && running) timer = setInterval(() => flip && flip(), 1000 / Number(speed.value));
  };
  const draw = () => {
    clearInterval(timer);
    flip = null;
    slider.oninput = opacity.oninput = stage.onpointermove = null;
    stage.replaceChildren();
    const view = views.find((radio) => radio.checked).value;
    for (const tool of document.querySelectorAll("[data-for]")) {
      tool.hidden = !tool.dataset.for.split(" ").includes(view);
    }
    show[view]();
    when.textContent = after ? "Show before" : "Show registered";
  };
  views.forEach((radio) => radio.addEventListener("change", draw));
  speed.addEventListener("input", restart);
  const toggle = () => { after = !after; draw(); };
  when.addEventListener("click", toggle);
  const hold = () => { running = !running; restart(); };
  pause.addEventListener("click", hold);
  // Those who dictate, or touch keys unmeant, switch the keys off (WCAG 2.2, 2.1.4).
  const keys = document.getElementById("keys");
  const KEYS = "regista-keys";
  try { keys.checked = localStorage.getItem(KEYS) !== "off"; } catch { /* a browser that keeps nothing for pages from the disk */ }
  keys.addEventListener("change", () => {
    try { localStorage.setItem(KEYS, keys.checked ? "on" : "off"); } catch { /* then for this visit alone */ }
  });
  document.addEventListener("keydown", (event) => {
    if (!keys.checked || event.ctrlKey || event.metaKey || event.altKey) return;
    const number = Number(event.key);
    if (number >= 1 && number <= views.length) { views[number - 1].checked = true; draw(); return; }
    const key = event.key.toLowerCase();
    if (key === "b") toggle();
    if (key === "f" && flip) flip();
    if (key === "p") hold();
    const step = { "[": -2, "]": 2 }[key];
    if (step && slider.oninput) { slider.value = Number(slider.value) + step; slider.oninput(); }
  });
  draw();
})();
