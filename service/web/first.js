// Before the first paint: the theme and the language that were chosen here last time.
(function () {
  var root = document.documentElement;
  function kept(name) {
    try {
      return localStorage.getItem("moverank." + name);
    } catch (error) {
      return null; // storage is off: the choice lasts as long as the page
    }
  }
  var theme = kept("theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  var language = kept("language") || (/^zh\b/i.test(navigator.language) ? "zh" : "en");
  root.lang = language === "zh" ? "zh-CN" : "en";
})();
