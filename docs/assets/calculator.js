// Turns the weights of one library's VICReg into those of another. The factors come from it_losses.vicreg_conventions.

// times * dim^power * (dim - 1)^power: what turns a weight of a library into that of the authors' code
function factor([times, dimPower, lessPower], dim) {
  return times * dim ** dimPower * (dim - 1) ** lessPower;
}

// The weights of `to` that give the loss of `from`, and by what their loss is to be multiplied to have the same value.
function translated(from, to, weights, dim) {
  const wanted = weights.map((weight, i) => (weight * factor(from.factors[i], dim)) / factor(to.factors[i], dim));
  // a library without a weight for the invariance fixes it at 1
  const scale = to.names[0] === null ? wanted[0] : 1;
  return { weights: wanted.map((weight) => weight / scale), scale };
}

function digits(number) {
  return String(Number(number.toPrecision(6)));
}

function call(library, weights) {
  const named = library.names.map((name, i) => name && `${name}=${digits(weights[i])}`);
  return named.filter(Boolean).join(", ");
}

function show(place, libraries) {
  place.innerHTML = `
    <label>from <select name="from"></select></label>
    <label>to <select name="to"></select></label>
    <label><span class="invariance"></span> <input name="invariance" type="number" min="0" step="any" value="25"></label>
    <label><span class="variance"></span> <input name="variance" type="number" min="0" step="any" value="25"></label>
    <label><span class="covariance"></span> <input name="covariance" type="number" min="0" step="any" value="1"></label>
    <label>dim of the projection <input name="dim" type="number" min="2" step="1" value="2048"></label>
    <output></output>`;
  const field = (name) => place.querySelector(`[name=${name}]`);
  for (const select of [field("from"), field("to")])
    select.append(...Object.keys(libraries).map((name) => new Option(name)));
  field("from").value = "solo-learn";
  field("to").value = "lightly";
  const terms = ["invariance", "variance", "covariance"];

  function update() {
    const from = libraries[field("from").value];
    const to = libraries[field("to").value];
    terms.forEach((term, i) => (place.querySelector(`.${term}`).textContent = from.names[i] || term));
    const fixed = from.names[0] === null;
    field("invariance").disabled = fixed;
    if (fixed) field("invariance").value = 1;
    const weights = terms.map((term) => Number(field(term).value));
    const dim = Number(field("dim").value);
    const output = place.querySelector("output");
    if (!(dim >= 2) || weights.some((weight) => !(weight >= 0)) || (to.names[0] === null && weights[0] === 0)) {
      output.textContent = "Weights must be 0 or more, dim 2 or more. The weight of the invariance must be above 0 for eb_jepa.";
      return;
    }
    const found = translated(from, to, weights, dim);
    const same = `VICReg(${weights.map(digits).join(", ")}, convention="${from.convention}")`;
    output.textContent =
      `${field("to").value}: ${call(to, found.weights)}\n` +
      (found.scale === 1 ? "" : `        its loss times ${digits(found.scale)} is the loss of ${field("from").value}\n`) +
      `it_losses: ${same}`;
  }

  place.addEventListener("input", update);
  update();
}

if (typeof document !== "undefined") {
  show(document.getElementById("calculator"), JSON.parse(document.getElementById("calculator-factors").textContent));
}
if (typeof module !== "undefined") module.exports = { translated };
