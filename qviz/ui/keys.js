// Ctrl+Z in a text field takes back what was typed there, not a change of the draft: Streamlit hands
// the shortcut of a button over from everywhere.
if (!window.__qvizKeys) {
  window.__qvizKeys = true;
  const typed = "textarea, input:not([type=checkbox], [type=radio], [type=range], [type=button])";
  window.addEventListener("keydown", (event) => {
    const undoes = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
    const at = event.target instanceof Element && event.target;
    if (undoes && at && (at.matches(typed) || at.isContentEditable)) event.stopImmediatePropagation();
  }, true);
}
