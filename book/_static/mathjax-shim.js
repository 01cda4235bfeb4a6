// The widget manager still speaks to MathJax 2 (`MathJax.Hub.Queue`); MathJax 3 has another interface.
// This runs after the inline configuration and before the deferred MathJax file.
(function () {
  if (!window.MathJax) return; // a page without formulas
  function queue(...commands) {
    for (const command of commands) {
      const element = Array.isArray(command) ? command[command.length - 1] : null;
      if (element instanceof Element && window.MathJax.typesetPromise) {
        window.MathJax.typesetPromise([element]);
      }
    }
  }
  const hub = { Queue: queue, Config: function () {}, Configured: function () {} };
  const startup = window.MathJax.startup || {};
  startup.ready = function () {
    window.MathJax.startup.defaultReady();
    window.MathJax.Hub = hub;
  };
  window.MathJax.startup = startup;
  window.MathJax.Hub = hub;
})();
