# A ferry, where it goes, and when.
type Profile::Departure = Struct[{
  ferry => String[1],
  to    => String[1],
  at    => Pattern[/\A\d\d:\d\d\z/],
}]
