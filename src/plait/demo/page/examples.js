// Tells the server which example was chosen.
for (const button of element.querySelectorAll("button"))
  button.addEventListener("click", () => {
    props.value = button.dataset.number;
    trigger("click");
  });
