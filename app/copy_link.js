// Comes before the scripts that have a button "Copy link".

async function copyLink(button, address) {
  try {
    await navigator.clipboard.writeText(address);
  } catch {
    // Browsers lend the clipboard to secure addresses only.
    const field = Object.assign(document.createElement("textarea"), { value: address });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy link"), 1600);
}

